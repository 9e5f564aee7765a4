"""An explicit save of one backend into config.yml: comments and order stay, the file is 0600 from the first byte."""

from __future__ import annotations

import io
import itertools
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ...models.errors import ConfigurationError
from ...models.faults import members, tagged
from ...models.home import private_folder, write_private
from ...models.secret import Secret
from ...models.yaml_reader import read_file
from ..registry import CONFIGS, proper
from .account import account_of
from .base import BackendConfig
from .file import load_config, model_of

OPTIONAL = ("filename", "data", "private_key_file", "private_key_content", "key_file", "key_content", "pass_phrase")
"""Fields that are asked for although they have a default: the login needs one of them."""
INLINE = ("data", "private_key_content", "key_content", "content")
"""Whole files as text: a prompt takes one line, so the file form is asked for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One value that a person enters."""

    path: tuple[str, ...]
    secret: bool
    required: bool


@dataclass(frozen=True, slots=True)
class Form:
    """The questions for a backend, made from its model so that they cannot be out of date."""

    name: str
    model: type[BackendConfig]

    @classmethod
    def of(cls, name: str) -> Form:
        """Raises NotFound for a name that nobody knows, ConfigurationError for one that has no entry."""
        backend_type, _ = account_of(name)
        if backend_type not in CONFIGS:
            raise ConfigurationError(f"{name} has no entry in config.yml", hint=f"`%dstack backends help {name}`")
        return cls(backend_type, model_of(backend_type))

    def _creds(self) -> list[type[BaseModel]]:
        info = self.model.model_fields.get("creds")
        return members(info.annotation) if info is not None else []

    @property
    def variants(self) -> list[str]:
        """Ways to log in: ``creds.type``, or the part of the entry that holds the login."""
        tags = [_tag(model) for model in self._creds()]
        return tags or [key for key in ("kubeconfig",) if key in self.model.model_fields]

    def fields(self, variant: str) -> list[Asked]:
        """What to ask for a variant, the login first."""
        asked: list[Asked] = []
        for model in self._creds():
            if _tag(model) == variant:
                asked += _of_model(model, ("creds",))
        for name, info in self.model.model_fields.items():
            if name in ("type", "creds"):
                continue
            inner = members(info.annotation)
            if info.is_required() and inner and not tagged(info):
                asked += _of_model(inner[0], (name,))
            elif info.is_required() or name == "project_name":
                asked.append(Asked((name,), _secret(info), info.is_required()))
        return asked

    def entry(self, variant: str, given: dict[str, Any]) -> dict[str, Any]:
        """The entry as it stands in the file."""
        if self._creds():
            given = {**given, "creds": {"type": variant, **given.get("creds", {})}}
        return {"type": self.name, **given}


def _tag(model: type[BaseModel]) -> str:
    return str(get_args(model.model_fields["type"].annotation)[0])


def _of_model(model: type[BaseModel], prefix: tuple[str, ...]) -> list[Asked]:
    return [
        Asked((*prefix, name), _secret(info), info.is_required())
        for name, info in model.model_fields.items()
        if name != "type" and name not in INLINE and (info.is_required() or name in OPTIONAL)
    ]


def _secret(info: FieldInfo) -> bool:
    def holds(annotation: Any) -> bool:
        if get_origin(annotation) in (Literal, types.GenericAlias):
            return False
        return annotation is Secret or any(holds(part) for part in get_args(annotation))

    return holds(info.annotation)


def put(entry: dict[str, Any], path: tuple[str, ...], value: str) -> None:
    """Set a value deep in an entry."""
    for key in path[:-1]:
        entry = entry.setdefault(key, {})
    entry[path[-1]] = value


def save(path: Path, project: str, entry: dict[str, Any]) -> None:
    """Put a backend's entry into the file, in place of the one of its type. Blocks.

    The file keeps its comments, order and quotes, and the old entry the keys that the new one does not name (``creds`` is
    replaced whole). Raises ConfigurationError, with every fault, for an entry that would not be valid; nothing is written then.
    """
    from ruamel.yaml import YAML

    target = path.resolve()
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    text = read_file(target) if target.exists() else ""
    if text:
        before = load_config(text, file=str(path))
        if before.root is None:
            raise ConfigurationError(f"{path} is not valid; it is not touched", problems=before.problems)
    document = yaml.load(text) if text else {"projects": []}
    dash = _indent(text)
    yaml.indent(mapping=2, sequence=dash + 2, offset=dash)
    projects = document["projects"]
    mapping = next((each for each in projects if each["name"] == project), None)
    if mapping is None and project == "main" and len(projects) == 1:
        mapping = projects[0]
    if mapping is None:
        mapping = {"name": project, "backends": []}
        projects.append(mapping)
    if not mapping.get("backends"):
        mapping["backends"] = []
    old = next((each for each in mapping["backends"] if proper(str(each.get("type"))) == proper(entry["type"])), None)
    if old is None:
        mapping["backends"].append(entry)
    else:
        for key, value in entry.items():
            if key != "type":
                old[key] = value
    stream = io.StringIO()
    yaml.dump(document, stream)
    after = load_config(stream.getvalue(), file=str(path))
    name = proper(entry["type"])
    if name in after.faulty.get(mapping["name"], {}):
        raise ConfigurationError(f"{name} is not configured: nothing was written", problems=after.problems)
    if not target.parent.exists():
        private_folder(target.parent)
    write_private(target, stream.getvalue().encode())


def _indent(text: str) -> int:
    """How far the dashes of lists stand to the right of their key in this file: 0 or 2."""
    lines = [line for line in text.splitlines() if line.strip()]
    for key, item in itertools.pairwise(lines):
        if key.rstrip().endswith(":") and item.lstrip().startswith("- "):
            return min(2, max(0, len(item) - len(item.lstrip()) - (len(key) - len(key.lstrip()))))
    return 2
