"""YAML text as plain data that remembers where each key stood, read with limits that no input can get around.

At most 1 MiB, 64 levels, 100,000 nodes after aliases are expanded; no duplicate keys, no tags that make objects.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from .configurations import OTHER_TYPES, TaskConfiguration
from .errors import ConfigurationError, LimitExceeded, NotFound, NotSupportedYet, Problem

LARGEST = 1 << 20
DEEPEST = 64
MOST_NODES = 100_000

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
KeyPath = tuple[str | int, ...]


@dataclass(slots=True)
class Source:
    """Plain data, and the (line, column) of every key and item, counted from 1."""

    data: Any
    file: str
    places: dict[KeyPath, tuple[int, int]] = field(default_factory=dict)

    def place(self, path: KeyPath) -> tuple[int, int]:
        """Where ``path`` stands, or the nearest thing around it."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, (0, 0))

    def problem(self, path: KeyPath, message: str, hint: str = "") -> Problem:
        line, column = self.place(path)
        return Problem(message, hint, ".".join(str(part) for part in path), self.file, line, column)


class _Walk:
    """Turns composed nodes into data; counts what aliases expand to before it is made."""

    def __init__(self, source: Source, first_line: int) -> None:
        self.source = source
        self.offset = first_line
        self.nodes = 0
        self.scalars = yaml.SafeLoader("")

    def fail(self, node: yaml.Node, message: str, hint: str = "") -> ConfigurationError:
        mark = node.start_mark
        problem = Problem(message, hint, "", self.source.file, mark.line + self.offset, mark.column + 1)
        return ConfigurationError("the YAML cannot be read", problems=[problem])

    def data(self, node: yaml.Node, path: KeyPath) -> Any:
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise self.fail(node, f"more than {MOST_NODES} nodes", "aliases multiply what they stand for")
        if len(path) > DEEPEST:
            raise self.fail(node, f"nested deeper than {DEEPEST} levels")
        self.source.places.setdefault(path, (node.start_mark.line + self.offset, node.start_mark.column + 1))
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.data(item, (*path, index)) for index, item in enumerate(node.value)]
        found: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.fail(key_node, "a key must be plain text")
            key = self.scalar(key_node)
            key = key if isinstance(key, str) else key_node.value
            if key in found:
                raise self.fail(key_node, f"the key {key!r} stands here twice")
            at = (*path, key)
            self.source.places[at] = (key_node.start_mark.line + self.offset, key_node.start_mark.column + 1)
            found[key] = self.data(value_node, at)
        return found

    def scalar(self, node: yaml.ScalarNode) -> Any:
        if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.endswith((":binary", ":timestamp")):
            return node.value
        try:
            return self.scalars.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self.fail(node, "this value cannot be read") from error


def _depth_of(text: str) -> int:
    """The deepest nesting, from events: composing recurses, and a recursion has a limit of its own."""
    deepest = depth = 0
    for event in yaml.parse(text, Loader=Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > DEEPEST:
                break
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return deepest


def read_yaml(text: str, file: str = "", first_line: int = 1) -> Source:
    """``text`` as data with places. ``first_line`` is the number of its first line in ``file`` (a cell's body starts at 2).

    Raises LimitExceeded, ConfigurationError with the place.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > LARGEST:
        raise LimitExceeded(
            f"{file or 'the YAML'} has {size / 2**20:.1f} MiB; a configuration has 1 MiB at most",
            hint="data belongs into `files`, not into the YAML",
        )
    source = Source(None, file)
    try:
        if _depth_of(text) > DEEPEST:
            problem = Problem(f"nested deeper than {DEEPEST} levels", file=file)
            raise ConfigurationError("the YAML cannot be read", problems=[problem])
        node = yaml.compose(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + first_line, mark.column + 1) if mark else (0, 0)
        what = error.problem or "not valid YAML"
        raise ConfigurationError(
            "the YAML cannot be read", problems=[Problem(what, file=file, line=line, column=column)]
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        message = "the text holds characters that YAML does not allow"
        raise ConfigurationError("the YAML cannot be read", problems=[Problem(message, file=file)]) from error
    if node is not None:
        source.data = _Walk(source, first_line).data(node, ())
    return source


def read_file(path: Path) -> str:
    """The text of a configuration file. Raises NotFound with near names, LimitExceeded before reading what is too large."""
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path()
        names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".yml", ".yaml") or entry.is_file())
        near = difflib.get_close_matches(path.name, names, 3) or [name for name in names if name.endswith("yml")][:3]
        raise NotFound(f"there is no file {path}", hint=f"did you mean {', '.join(near)}?" if near else "check the path")
    if (size := path.stat().st_size) > LARGEST:
        raise LimitExceeded(
            f"{path} has {size / 2**20:.1f} MiB; a configuration has 1 MiB at most",
            hint="data belongs into `files`, not into the YAML",
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text") from error


def load_configuration(
    text: str, *, file: str = "", env: Mapping[str, str] | None = None, first_line: int = 1
) -> TaskConfiguration:
    """The configuration of a run from YAML text. ``env`` fills variables that are named without a value.

    Raises ConfigurationError with every fault and its place, NotSupportedYet for other types, LimitExceeded.
    """
    source = read_yaml(text, file, first_line)
    if not isinstance(source.data, dict):
        problem = Problem("expected keys such as `type: task` and `commands:`", file=file, line=first_line, column=1)
        raise ConfigurationError("this is no configuration", problems=[problem])
    kind = source.data.get("type")
    if kind in OTHER_TYPES:
        raise NotSupportedYet(f"type {kind!r} is not supported yet", hint="this version runs `type: task`")
    if kind != "task":
        hint = "the key is missing" if kind is None else "known: task"
        raise ConfigurationError("the configuration is not valid", problems=[source.problem(("type",), "expected `type: task`", hint)])
    try:
        task = TaskConfiguration.model_validate(source.data)
    except ValidationError as error:
        raise ConfigurationError("the configuration is not valid", problems=_problems(source, error)) from None
    missing = task.resolve_env(dict(env or {}))
    if missing:
        problems = [source.problem(("env", name), "has no value, and your environment has none either") for name in missing]
        raise ConfigurationError("the configuration is not valid", problems=problems)
    return task


def _problems(source: Source, error: ValidationError) -> list[Problem]:
    found: dict[tuple[KeyPath, str], Problem] = {}
    for fault in error.errors(include_url=False, include_context=False, include_input=False):
        path, models = _inside(source.data, fault["loc"])
        message, hint = fault["msg"].removeprefix("Value error, "), ""
        if fault["type"] == "extra_forbidden":
            message, hint = "unknown key", _near(str(fault["loc"][-1]), models)
        elif fault["type"] == "missing":
            message = "is missing"
        found.setdefault((path, message), source.problem(path, message, hint))
    return sorted(found.values(), key=lambda problem: (problem.line, problem.column))


def _inside(data: Any, location: tuple[str | int, ...]) -> tuple[KeyPath, type[BaseModel]]:
    """The part of an error's location that is in the data (pydantic adds names of union members), and the model there."""
    path: list[str | int] = []
    model: type[BaseModel] = TaskConfiguration
    for part in location:
        inner = _model_of(model, part)
        if isinstance(data, dict) and part in data or isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
            path.append(part)
            model = inner or model
        elif isinstance(data, dict) and part == location[-1] and inner is not None:
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
