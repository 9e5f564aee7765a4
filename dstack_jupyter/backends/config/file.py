"""``~/.dstack/server/config.yml``: read where it is, every fault in one pass, never rewritten but by ``saving``.

Facts: reference ``configuration`` §2. A wrong entry leaves the other backends usable: each entry is validated by its own
model, and a vendor's folder is imported only when its entry is met.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import importlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from ...models.base import Model
from ...models.errors import ConfigurationError, Problem
from ...models.faults import in_order
from ...models.secret import Secret
from ...models.yaml_reader import KeyPath, Source, read_file, read_yaml
from ...models.yaml_source import INVALID, validated
from ..registry import CONFIGS, proper
from .base import BackendConfig

ENV_NO_DEFAULT_CREDS = "DSTACK_DEFAULT_CREDS_DISABLED"


def _of_32_bytes(value: Secret) -> Secret:
    try:
        size = len(base64.b64decode(value.reveal(), validate=True))
    except (binascii.Error, ValueError):
        raise ValueError("expected 32 bytes in base64") from None
    if size != 32:
        raise ValueError("expected 32 bytes in base64")
    return value


class AESKey(Model):
    """``type: aes``: 32 bytes in base64; the first key of the list encrypts, all decrypt."""

    type: Literal["aes"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]
    secret: Annotated[Secret, AfterValidator(_of_32_bytes)]


class IdentityKey(Model):
    """``type: identity``: clear text."""

    type: Literal["identity"]


class Encryption(Model):
    """Keys of dstack's own database. Checked, never used: they stand in clear text beside what they would protect."""

    keys: list[Annotated[AESKey | IdentityKey, Field(discriminator="type")]]


class DefaultPermissions(Model):
    allow_non_admins_create_projects: bool = True
    allow_non_admins_manage_ssh_fleets: bool = True


class Project(Model):
    """A namespace and its backends. The entries are validated each by its own model: see ``ServerConfig.of``."""

    name: str
    backends: list[Any] | None = None


class ServerFile(Model):
    """The root of config.yml."""

    projects: list[Project]
    encryption: Encryption | None = None
    default_permissions: DefaultPermissions | None = None
    plugins: list[str] | None = None

    @field_validator("projects")
    @classmethod
    def _different(cls, value: list[Project]) -> list[Project]:
        names = [project.name for project in value]
        if len(set(names)) != len(names):
            raise ValueError("a project is given twice")
        return value


@dataclass(slots=True)
class ServerConfig:
    """What a config.yml says, as far as it can be understood. ``backends`` are by project, then by name.

    ``problems`` holds every fault; ``faulty`` the first one of each backend that is configured wrongly, by project and name.
    """

    backends: dict[str, dict[str, BackendConfig]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    faulty: dict[str, dict[str, Problem]] = field(default_factory=dict)
    root: ServerFile | None = None


def model_of(kind: str) -> type[BackendConfig]:
    """The model of an entry's ``type``; its vendor's folder is imported."""
    module, _, name = CONFIGS[kind].partition(":")
    model: type[BackendConfig] = getattr(importlib.import_module(module), name)
    return model


def load_config(text: str | Path, *, file: str = "") -> ServerConfig:
    """A config.yml, or one backend's entry alone, from text or from the file that a Path names.

    Raises ConfigurationError where it is no YAML at all, NotFound, LimitExceeded; all other faults are in ``problems``.
    """
    if isinstance(text, Path):
        text, file = read_file(text), file or str(text)
    return of_source(read_yaml(text, file))


def of_source(source: Source) -> ServerConfig:
    """As ``load_config``, of what was read already."""
    config = ServerConfig()
    if not isinstance(source.data, dict):
        message = "is empty" if source.data is None else "is not a map of keys"
        config.problems = [source.problem((), f"the configuration {message}", "begin with `projects:`")]
    elif "type" in source.data:
        _entry(source, (), "main", config)
    else:
        _root(source, config)
    config.problems = in_order(config.problems)
    return config


def _root(source: Source, config: ServerConfig) -> None:
    try:
        config.root = validated(source, ServerFile)
        for each in config.root.projects:
            each.__dict__["backends"] = None  # raw entries hold secrets in clear text: their own models take their place
    except ConfigurationError as error:
        config.problems += error.problems
    projects = source.data.get("projects")
    for number, project in enumerate(projects if isinstance(projects, list) else ()):
        name = project.get("name") if isinstance(project, dict) else None
        if not isinstance(name, str):
            continue
        config.backends.setdefault(name, {})
        entries = project.get("backends")
        for index in range(len(entries) if isinstance(entries, list) else 0):
            _entry(source, ("projects", number, "backends", index), name, config)


def _entry(source: Source, path: KeyPath, project: str, result: ServerConfig) -> None:
    """Validate one backend's entry into ``result``."""
    data = source.data
    for part in path:
        data = data[part]
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        missing = isinstance(data, dict) and "type" not in data
        where = (*path, "type") if isinstance(data, dict) else path
        hint = f"one of {', '.join(CONFIGS)}"
        result.problems.append(source.problem(where, "is missing" if missing else "expected a backend with its type", hint))
        return
    kind = data["type"]
    if kind not in CONFIGS:
        near = difflib.get_close_matches(kind, CONFIGS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(CONFIGS)}"
        result.problems.append(source.problem((*path, "type"), "unknown backend", hint))
        return
    name = proper(kind)
    try:
        config = validated(source, model_of(kind), path)
        if name in result.backends.get(project, {}):
            problem = source.problem((*path, "type"), f"a second {kind} backend in project {project!r}", "one a project")
            raise ConfigurationError(INVALID, problems=[problem])
        creds = data.get("creds")
        if isinstance(creds, dict) and creds.get("type") == "default" and os.environ.get(ENV_NO_DEFAULT_CREDS):
            problem = source.problem((*path, "creds", "type"), "default credentials are disabled here", ENV_NO_DEFAULT_CREDS)
            raise ConfigurationError(INVALID, problems=[problem])
    except ConfigurationError as error:
        result.problems += error.problems
        result.faulty.setdefault(project, {})[name] = error.problems[0]
        return
    result.backends.setdefault(project, {})[name] = config
