"""A configuration from YAML: every fault in one pass, each with its place and, for a wrong key, the nearest right one.

No message repeats a value: it may be a secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from .configurations import OTHER_TYPES, RUN_TYPES, AnyRun, RunConfiguration
from .errors import ConfigurationError, NotSupportedYet, Problem
from .fleets import FleetConfiguration
from .yaml_reader import KeyPath, Source, read_file, read_yaml

TYPES: dict[str, type[AnyRun] | type[FleetConfiguration]] = {**RUN_TYPES, "fleet": FleetConfiguration}
INVALID = "the configuration is not valid"


def load_configuration(
    text: str | Path, *, file: str = "", env: Mapping[str, str] | None = None, first_line: int = 1
) -> AnyRun | FleetConfiguration:
    """The configuration of a run or fleet from YAML text, or from the file that a Path names.

    ``env`` fills variables that are named without a value. ``file`` is what messages call the text; ``first_line`` the number
    of its first line there (a cell's body starts at 2). Raises ConfigurationError with every fault and its place,
    NotSupportedYet for other types, LimitExceeded, NotFound.
    """
    if isinstance(text, Path):
        text, file = read_file(text), file or str(text)
    source = read_yaml(text, file, first_line)
    if not isinstance(source.data, dict):
        message = "is empty" if source.data is None else "is not a map of keys"
        problem = Problem(f"the configuration {message}", "begin with `type: task`", "", file, first_line, 1)
        raise ConfigurationError(INVALID, problems=[problem])
    if "type" not in source.data:
        raise ConfigurationError(INVALID, problems=[source.problem(("type",), "is missing", "add `type: task`")])
    found = validate(source)
    missing = found.resolve_env(dict(env or {})) if isinstance(found, RunConfiguration) else []
    if missing:
        hint = "set it there, or write NAME=value"
        problems = [
            source.problem(_env_path(source.data["env"], name), f"{name} has no value, here or in your environment", hint)
            for name in missing
        ]
        raise ConfigurationError(INVALID, problems=problems)
    return found


def validate(source: Source) -> AnyRun | FleetConfiguration:
    """The model of a configuration's data. Raises ConfigurationError with every fault, NotSupportedYet for other types."""
    kind = source.data.get("type", "task")
    if kind in OTHER_TYPES:
        raise NotSupportedYet(f"type {kind!r} is not supported yet", hint=f"this version knows {', '.join(TYPES)}")
    model = TYPES.get(kind) if isinstance(kind, str) else None
    if model is None:
        near = difflib.get_close_matches(str(kind), [*TYPES, *OTHER_TYPES], 1) if isinstance(kind, str) else []
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join([*TYPES, *OTHER_TYPES])}"
        raise ConfigurationError(INVALID, problems=[source.problem(("type",), "unknown type", hint)])
    try:
        return model.model_validate(source.data)
    except ValidationError as error:
        raise ConfigurationError(INVALID, problems=_problems(source, error, model)) from None


def _env_path(env: Any, name: str) -> KeyPath:
    return ("env", env.index(name)) if isinstance(env, list) else ("env", name)


def _problems(source: Source, error: ValidationError, root: type[BaseModel]) -> list[Problem]:
    """One problem for each place: the members of a union each complain, and what lies deepest says most."""
    found: dict[KeyPath, Problem] = {}
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        path, model = _inside(source.data, fault["loc"], root)
        message = _plain(fault["msg"])
        hint = ""
        if fault["type"] == "extra_forbidden":
            message, hint = "unknown key", _near(str(fault["loc"][-1]), model)
        elif fault["type"] == "missing":
            path, message = (*path, fault["loc"][-1]), "is missing"
        if path in found and not hint:
            before, also = found[path].message, message.removeprefix("expected ")
            message = before if also in before else f"{before} or {also}"
        found[path] = source.problem(path, message, hint)
    deepest = [path for path in found if path == () or not any(path == other[: len(path)] for other in found if other != path)]
    return sorted((found[path] for path in deepest), key=lambda problem: (problem.line, problem.column))


def _plain(message: str) -> str:
    """Pydantic's words as ours."""
    message = message.removeprefix("Value error, ").replace("Input should be", "expected")
    message = re.sub(r" or instance of \w+|, unable to .*", "", message)
    return message.replace("a valid dictionary", "a map").replace("a valid string", "text").replace("a valid ", "a ")


def _inside(data: Any, location: tuple[str | int, ...], root: type[BaseModel]) -> tuple[KeyPath, type[BaseModel]]:
    """The part of an error's location that is in the data (pydantic adds names of union members), and the model there."""
    path: list[str | int] = []
    model = root
    for part in location:
        known = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if known:
            model = _model_of(model, part) or model
            data = data[part]
            path.append(part)
    return tuple(path), model


def _model_of(model: type[BaseModel], part: str | int) -> type[BaseModel] | None:
    """The model behind a field, through Optional and list."""
    if not isinstance(part, str) or part not in model.model_fields:
        return None
    pending = [model.model_fields[part].annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
        pending += list(getattr(annotation, "__args__", ()))
    return None


def _near(key: str, model: type[BaseModel]) -> str:
    near = difflib.get_close_matches(key, model.model_fields, 1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(model.model_fields)[:12])}, …"
