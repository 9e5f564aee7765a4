"""The boundary between pydantic and our users: a ValidationError as problems with places, in our words, without values.

No message repeats a value: it may be a secret.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from .errors import Problem
from .yaml_reader import KeyPath, Source

TAG = "type"
"""What tells the members of a union apart when nothing else is said."""


def problems(source: Source, error: ValidationError, root: type[BaseModel], prefix: KeyPath = ()) -> list[Problem]:
    """One problem for each place: the members of a union each complain, and what lies deepest says most.

    ``prefix`` is where the data of ``root`` stands in the source.
    """
    data = source.data
    for part in prefix:
        data = data[part]
    by_path: dict[KeyPath, Problem] = {}
    for fault in error.errors(include_url=False, include_input=False):
        path, model = _inside(data, fault["loc"], root)
        message, hint = _plain(fault["msg"]), ""
        match fault["type"]:
            case "extra_forbidden":
                message, hint = "unknown key", _near(str(fault["loc"][-1]), model)
            case "missing":
                path, message = (*path, fault["loc"][-1]), "is missing"
            case "union_tag_not_found":
                path, message = (*path, TAG), "is missing"
                hint = f"expected one of {', '.join(_tags_at(data, path[:-1], root))}"
            case "union_tag_invalid":
                tags = re.findall(r"'([^']+)'", str(fault.get("ctx", {}).get("expected_tags", "")))
                given = _at(data, path)
                near = difflib.get_close_matches(str(given.get(TAG)) if isinstance(given, dict) else "", tags, 1)
                message, path = f"expected one of {', '.join(tags)}", (*path, TAG)
                hint = f"did you mean {near[0]!r}?" if near else ""
        whole = (*prefix, *path)
        if whole in by_path and not hint:
            before, also = by_path[whole].message, message.removeprefix("expected ")
            message = before if also in before else f"{before} or {also}"
        by_path[whole] = source.problem(whole, message, hint)
    deepest = [
        path for path in by_path if path == prefix or not any(path == other[: len(path)] for other in by_path if other != path)
    ]
    return in_order(by_path[path] for path in deepest)


def _is_in(path: KeyPath, other: KeyPath) -> bool:
    return path != other and path[: len(other)] == other


def in_order(unsorted: Any) -> list[Problem]:
    """Problems as a reader meets them."""
    return sorted(unsorted, key=lambda problem: (problem.line, problem.column))


def _plain(message: str) -> str:
    """Pydantic's words as ours."""
    message = message.removeprefix("Value error, ").replace("Input should be", "expected")
    message = re.sub(r" or instance of \w+|, unable to .*", "", message)
    return message.replace("a valid dictionary", "a map").replace("a valid string", "text").replace("a valid ", "a ")


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, dict) else data[int(part)] if isinstance(data, list) else None
    return data


def _inside(data: Any, location: tuple[str | int, ...], root: type[BaseModel]) -> tuple[KeyPath, type[BaseModel]]:
    """The part of an error's location that is in the data (pydantic adds names of union members), and the model there."""
    path: list[str | int] = []
    model = root
    info: FieldInfo | None = None
    skip = False
    for part in location:
        if skip:  # the member of a discriminated union, which may well be called like one of its keys
            skip = False
            continue
        known = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if known:
            if isinstance(part, str):
                info = model.model_fields.get(part)
            data = data[part]
            path.append(part)
            if info is not None and not isinstance(data, list):
                skip = tagged(info)
                model = member(info, data) or model
                info = None
    return tuple(path), model


def tagged(info: FieldInfo) -> bool:
    """Whether the field is a union whose members are told apart by a key."""
    return info.discriminator is not None or _has_tag(info.annotation)


def _has_tag(annotation: Any) -> bool:
    return any(
        getattr(part, "discriminator", None) is not None or _has_tag(part)
        for part in (*getattr(annotation, "__metadata__", ()), *get_args(annotation))
    )


def members(annotation: Any) -> list[type[BaseModel]]:
    """All models in an annotation, through Optional, list, Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [each for part in get_args(annotation) for each in members(part)]


def member(info: FieldInfo, data: Any) -> type[BaseModel] | None:
    """The model behind a field: of several the one whose tag the data holds, else the first."""
    classes = members(info.annotation)
    for model in classes if isinstance(data, dict) and tagged(info) else ():
        for name, field in model.model_fields.items():
            if name in data and data[name] in get_args(field.annotation):
                return model
    return classes[0] if classes else None


def _tags_at(data: Any, path: KeyPath, root: type[BaseModel]) -> list[str]:
    model = root
    info: FieldInfo | None = None
    for part in path:
        info = model.model_fields.get(str(part), info)
        data = _at(data, (part,))
        model = (member(info, data) if info else None) or model
    if info is None:
        return []
    return [str(get_args(each.model_fields[TAG].annotation)[0]) for each in members(info.annotation) if TAG in each.model_fields]


def _near(key: str, model: type[BaseModel]) -> str:
    near = difflib.get_close_matches(key, model.model_fields, 1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    names = sorted(model.model_fields)
    return f"known here: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}"
