"""The configuration of a task: every key of both eras, and which of them this version carries out.

Facts: reference ``configuration`` §4.1. A key that is understood but not built yet is refused by name, never ignored.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from .base import Model
from .profiles import ProfileParams
from .resources import Resources

ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RUN_NAME = re.compile(r"[a-z][a-z0-9-]{1,40}")
LONGEST_COMMANDS = 100 * 1024
"""Bytes of all commands together: they are one argument of a shell, and Linux allows 128 KiB for one."""
OTHER_TYPES = ("dev-environment", "service", "fleet", "volume", "gateway")


def _source_and_path(value: object) -> object:
    """``src[:dst]`` as {local_path, path}; a Windows drive letter is part of the source."""
    if not isinstance(value, str):
        return value
    drive = re.match(r"[A-Za-z]:\\", value)
    head, rest = (value[:2], value[2:]) if drive else ("", value)
    source, separator, path = rest.rpartition(":")
    if not separator:
        source, path = rest, ""
    found = {"local_path": head + source}
    if path:
        found["path"] = path
    return found


class FileMapping(Model):
    """A local file or folder and where it goes in the job's working folder; its own name if ``path`` is not given."""

    local_path: str
    path: str | None = None

    _parse = model_validator(mode="before")(staticmethod(_source_and_path))


class Repo(Model):
    """Code of the run: a local folder (with its uncommitted changes) or, not supported yet, a URL."""

    local_path: str | None = None
    url: str | None = None
    branch: str | None = None
    hash: str | None = None
    path: str = "."
    if_exists: Literal["error", "skip"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if re.match(r"[a-z+]+://|git@", value):
            return {"url": value}
        return _source_and_path(value)

    @model_validator(mode="after")
    def _one_source(self) -> Repo:
        if (self.local_path is None) == (self.url is None):
            raise ValueError("exactly one of local_path and url is needed")
        return self


def _env(value: object) -> object:
    """A map of names to text from a map or a list of ``K=V`` and ``K``; None is 'take it from the caller'."""
    if isinstance(value, list):
        found: dict[str, str | None] = {}
        for item in value:
            if not isinstance(item, str):
                raise ValueError("expected NAME=value or NAME")
            name, separator, text = item.partition("=")
            if name in found:
                raise ValueError(f"{name} is given twice")
            found[name] = text if separator else None
        value = found
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str) or not ENV_NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of an environment variable")
        return {name: text if text is None or isinstance(text, str) else _scalar(text) for name, text in value.items()}
    return value


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise ValueError("expected text")


def _python(value: object) -> object:
    """3.1 is what YAML makes of 3.10."""
    return "3.10" if value == 3.1 else str(value) if isinstance(value, int | float) else value


class TaskConfiguration(ProfileParams):
    """``type: task``. ``env`` values that are None were left to the caller's environment: see ``resolve_env``."""

    type: Literal["task"] = "task"
    name: str | None = None
    commands: list[str] = []
    env: Annotated[dict[str, str | None], BeforeValidator(_env)] = {}
    working_dir: str | None = None
    shell: str | None = None
    resources: Resources = Resources()
    files: list[FileMapping] = []
    repos: list[Repo] = Field(default=[], max_length=1)
    image: str | None = None
    user: str | None = None
    privileged: bool = False
    entrypoint: str | None = None
    home_dir: str | None = None
    setup: list[str] | None = None
    registry_auth: dict[str, str] | None = None
    python: Annotated[str | None, BeforeValidator(_python)] = None
    nvcc: bool | None = None
    docker: bool | None = None
    single_branch: bool | None = None
    priority: int | None = Field(default=None, ge=0, le=100)
    volumes: list[Any] = []
    ports: list[int | str] = []
    nodes: int | None = Field(default=None, ge=1)
    groups: list[dict[str, Any]] | None = None
    dstack: bool = False
    budget: float | None = Field(default=None, gt=0)

    @field_validator("name")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        if value is not None and not RUN_NAME.fullmatch(value):
            raise ValueError("a run's name has 2 to 41 of a-z, 0-9 and -, and begins with a letter")
        return value

    @field_validator("shell")
    @classmethod
    def _shell(cls, value: str | None) -> str | None:
        if value in ("sh", "bash"):
            return f"/bin/{value}"
        if value is not None and not os.path.isabs(value):
            raise ValueError("expected sh, bash or an absolute path")
        return value

    @field_validator("commands")
    @classmethod
    def _commands(cls, value: list[str]) -> list[str]:
        if sum(len(command.encode()) for command in value) > LONGEST_COMMANDS:
            raise ValueError("the commands are longer than 100 KiB: put them in a script and list it under `files`")
        if any("\0" in command for command in value):
            raise ValueError("a command cannot hold a NUL character")
        return value

    @model_validator(mode="after")
    def _something_to_run(self) -> TaskConfiguration:
        if not self.commands and self.image is None:
            raise ValueError("either commands or image is needed")
        return self

    def resolve_env(self, environment: dict[str, str]) -> list[str]:
        """Fill variables that were named without a value from the caller's environment; returns those it lacks."""
        missing = [name for name, value in self.env.items() if value is None and name not in environment]
        if not missing:
            self.env = {name: environment[name] if value is None else value for name, value in self.env.items()}
        return missing


BUILT = frozenset(
    {"type", "name", "commands", "env", "working_dir", "shell", "resources", "files", "repos"}
    | {"max_duration", "stop_duration", "max_price", "spot_policy", "backends", "regions", "instance_types", "tags"}
    # Accepted without effect by dstack itself.
    | {"home_dir", "setup"}
)


def unsupported(task: TaskConfiguration) -> list[str]:
    """Keys that the user set, that mean something, and that this version does not carry out yet."""
    defaults = TaskConfiguration(commands=["true"])
    found = [
        key
        for key in task.model_fields_set
        if key not in BUILT and getattr(task, key) not in (getattr(defaults, key), None, False)
    ]
    if task.nodes == 1 and "nodes" in found:
        found.remove("nodes")
    found += [f"repos.{key}" for repo in task.repos for key in ("url", "branch", "hash") if getattr(repo, key)]
    if task.resources.shm_size is not None:
        found.append("resources.shm_size")
    return sorted(found)
