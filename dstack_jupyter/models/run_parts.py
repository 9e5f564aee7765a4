"""The parts of a run's configuration that have a short form: environment, files, repos, ports, volumes, users.

Facts: reference ``configuration`` §4.1. Validators raise ValueError without the value where it may be a secret.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from .base import Model
from .secret import Secret

ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
URL = re.compile(r"((?:[a-z+]+://[^/]+/|[\w.-]+@[^:/]+:)[^:]*)(?::(.+))?")
PYTHONS = tuple(f"3.{minor}" for minor in range(9, 16))


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("a text cannot hold a NUL character")
    return value


Text = Annotated[str, AfterValidator(_no_nul)]
Path = Annotated[str, Field(min_length=1), AfterValidator(_no_nul)]


def _absolute(value: str) -> str:
    if not value.startswith("/") or ".." in value.split("/"):
        raise ValueError("expected an absolute path without ..")
    return value


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


def _source_and_path(value: object) -> object:
    """``src[:dst]`` as {local_path, path}; a Windows drive letter is part of the source."""
    if not isinstance(value, str):
        return value
    head = value[:2] if WINDOWS_DRIVE.match(value) else ""
    source, separator, path = value[len(head) :].partition(":")
    return {"local_path": head + source, **({"path": path} if separator else {})}


class FileMapping(Model):
    """A local file or folder and where it goes: a path without a target stays as it was written (``client.pack.landing``)."""

    local_path: Path
    path: Path | None = None

    _parse = model_validator(mode="before")(staticmethod(_source_and_path))

    @model_validator(mode="after")
    def _unix(self) -> FileMapping:
        if self.path is not None and (WINDOWS_DRIVE.match(self.path) or "\\" in self.path):
            raise ValueError("the destination must be a Unix path")
        return self


class Repo(Model):
    """Code of the run: a local folder (with its uncommitted changes) or, not supported yet, a URL."""

    local_path: Path | None = None
    url: Path | None = None
    branch: str | None = None
    hash: str | None = None
    path: Path = "."
    if_exists: Literal["error", "skip"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if isinstance(value, str) and (match := URL.fullmatch(value)):
            return {"url": match[1], **({"path": match[2]} if match[2] else {})}
        return _source_and_path(value)

    @model_validator(mode="after")
    def _one_source(self) -> Repo:
        if (self.local_path is None) == (self.url is None):
            raise ValueError("exactly one of local_path and url is needed")
        return self


def _env(value: object) -> object:
    """A map of names to text from a map or a list of ``K=V`` and ``K``; None is 'take it from the caller'."""
    if isinstance(value, list):
        return _env_of_list(value)
    if not isinstance(value, dict):
        return value
    variables: dict[str, str | None] = {}
    for name, text in value.items():
        if not isinstance(name, str) or not ENV_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of an environment variable")
        if isinstance(text, bool):
            text = "true" if text else "false"
        elif isinstance(text, int | float):
            text = str(text)
        elif text is not None and not isinstance(text, str):
            raise ValueError(f"the value of {name} is not text")
        variables[name] = text
    return variables


def _env_of_list(items: list[Any]) -> dict[str, str | None]:
    variables: dict[str, str | None] = {}
    for number, item in enumerate(items, 1):
        name, separator, text = item.partition("=") if isinstance(item, str) else ("", "", "")
        if not ENV_NAME.fullmatch(name):
            # Not shown: what is written wrongly may well be a secret.
            raise ValueError(f"item {number} is neither NAME=value nor NAME")
        if name in variables:
            raise ValueError(f"{name} is given twice")
        variables[name] = text if separator else None
    return variables


Env = Annotated[dict[str, Text | None], BeforeValidator(_env)]
"""Names and values; a value of None was left to the caller's environment."""


class Port(Model):
    """``N``, ``L:C`` or ``*:C``; ``local_port`` None is any free one."""

    local_port: int | None = Field(default=None, ge=1, le=65535)
    container_port: int = Field(ge=1, le=65535)

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"local_port": value, "container_port": value}
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"(?:(\d{1,5}|\*):)?(\d{1,5})", value)
        if match is None:
            raise ValueError("expected a port such as 8080, 80:8080 or *:8080")
        local, container = match[1] or match[2], int(match[2])
        return {"local_port": None if local == "*" else int(local), "container_port": container}


class VolumeMount(Model):
    """A volume by ``name`` (a list: the one that fits the region), or a folder of the host by ``instance_path``."""

    name: Path | list[Path] | None = None
    instance_path: AbsolutePath | None = None
    path: AbsolutePath
    optional: bool = False

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        source, separator, path = value.partition(":")
        if not separator:
            raise ValueError("expected name:/path or /host/path:/path")
        return {"instance_path" if "/" in source else "name": source, "path": path}

    @model_validator(mode="after")
    def _one_source(self) -> VolumeMount:
        if (self.name is None) == (self.instance_path is None):
            raise ValueError("exactly one of name and instance_path is needed")
        return self


class RegistryAuth(Model):
    """``password`` never prints."""

    username: Text
    password: Secret


def _user(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]*(:[A-Za-z0-9_][\w.-]*)?", value, re.ASCII):
        raise ValueError("expected user or user:group, names or numbers")
    return value


User = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value), AfterValidator(_user)]


def _python(value: object) -> object:
    """3.1 is what YAML makes of 3.10."""
    text = "3.10" if value == 3.1 else str(value) if isinstance(value, int | float) else value
    if text is not None and text not in PYTHONS:
        raise ValueError(f"expected one of {', '.join(PYTHONS)}")
    return text


Python = Annotated[str, BeforeValidator(_python)]
