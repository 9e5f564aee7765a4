"""The configurations of runs: every key of both eras, and which of them this version carries out.

Facts: reference ``configuration`` §4.1. A key that is understood but not built yet is refused by name, never ignored.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from .base import Model
from .durations import DurationOrOff
from .errors import ConfigurationError, NotSupportedYet
from .profiles import ProfileParams
from .resources import Resources
from .run_parts import Env, FileMapping, Port, Python, RegistryAuth, Repo, Text, User, VolumeMount
from .secret import SHOWN

RUN_NAME = re.compile(r"[a-z][a-z0-9-]{1,40}")
LONGEST_COMMANDS = 100 * 1024
"""Bytes of all commands together: they are one argument of a shell, and Linux allows 128 KiB for one."""


class TaskGroup(Model):
    """Nodes of one kind in a task of several (``groups``)."""

    name: str | None = None
    nodes: int = Field(default=1, ge=1)
    resources: Resources | None = None
    commands: list[Text] = []
    ports: list[Port] = []


class RunConfiguration(ProfileParams):
    """What all runs share. ``env`` values that are None were left to the caller's environment: see ``resolve_env``."""

    type: str
    name: str | None = None
    env: Env = {}
    working_dir: Text | None = None
    shell: Text | None = None
    resources: Resources = Resources()
    files: list[FileMapping] = []
    repos: list[Repo] = Field(default=[], max_length=1)
    image: str | None = None
    user: User | None = None
    privileged: bool = False
    entrypoint: str | None = None
    home_dir: str | None = None
    setup: list[str] | None = None
    registry_auth: RegistryAuth | None = None
    python: Python | None = None
    nvcc: bool | None = None
    docker: bool | None = None
    single_branch: bool | None = None
    priority: int | None = Field(default=None, ge=0, le=100)
    volumes: list[VolumeMount] = []
    ports: list[Port] = []
    dstack: bool = False
    budget: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Dollars that the run may cost. Our own key: dstack refuses it."
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        if value is not None and not RUN_NAME.fullmatch(value):
            raise ValueError("a run's name has 2 to 41 of a-z, 0-9 and -, and begins with a letter")
        return value

    @field_validator("entrypoint")
    @classmethod
    def _entrypoint(cls, value: str | None) -> str | None:
        try:
            shlex.split(value or "")
        except ValueError as error:
            raise ValueError(f"not a command line: {str(error).lower()}; write it as in a shell, with quotes that end") from None
        return value

    @field_validator("shell")
    @classmethod
    def _shell(cls, value: str | None) -> str | None:
        if value is None or os.path.isabs(value):
            return value
        if value not in ("sh", "bash"):
            raise ValueError("expected sh, bash or an absolute path")
        return f"/bin/{value}"

    @model_validator(mode="after")
    def _one_environment(self) -> Self:
        if sum((self.image is not None, self.python is not None, bool(self.docker))) > 1:
            raise ValueError("only one of image, python and docker can be given")
        return self

    @property
    def node_count(self) -> int:
        """How many jobs the run has."""
        return 1

    @property
    def script(self) -> list[str]:
        """The commands that a job of this run executes; empty: what its image says."""
        return []

    def resolve_env(self, environment: dict[str, str]) -> list[str]:
        """Fill variables that were named without a value from the caller's environment; returns those it lacks."""
        named = [name for name, value in self.env.items() if value is None]
        missing = [name for name in named if name not in environment]
        if named and not missing:
            self.env = {**self.env, **{name: environment[name] for name in named}}
        return missing

    def given(self) -> dict[str, Any]:
        """What the user gave, as JSON: a program sends this, since defaults that are filled in look like wishes."""
        return {**self.model_dump(mode="json", exclude_unset=True), "type": self.type}


def _short_enough(value: list[str]) -> list[str]:
    if sum(len(command.encode()) + 1 for command in value) > LONGEST_COMMANDS:
        raise ValueError("the commands are longer than 100 KiB: put them in a script and list it under `files`")
    return value


Commands = Annotated[list[Text], AfterValidator(_short_enough)]


class TaskConfiguration(RunConfiguration):
    """``type: task``."""

    type: Literal["task"] = "task"
    commands: Commands = []
    nodes: int | None = Field(default=None, ge=1)
    groups: list[TaskGroup] | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if not self.commands and self.image is None and not self.groups:
            raise ValueError("either commands or image is needed")
        if self.groups and self.nodes is not None:
            raise ValueError("only one of nodes and groups can be given")
        return self

    @property
    def node_count(self) -> int:
        return self.nodes or 1

    @property
    def script(self) -> list[str]:
        return self.commands


class DevEnvironmentConfiguration(RunConfiguration):
    """``type: dev-environment``: a machine to work on, until it is stopped. ``ide`` is optional, as in the newer era.

    Facts: reference ``configuration`` §4.1. ``jupyter`` is our own ide.
    """

    type: Literal["dev-environment"] = "dev-environment"
    ide: Literal["vscode", "cursor", "windsurf", "zed", "jupyter"] | None = Field(
        default=None, description="`jupyter` is our own: dstack refuses it."
    )
    version: str | None = None
    init: Commands = []
    inactivity_duration: DurationOrOff = None

    @model_validator(mode="after")
    def _no_entrypoint(self) -> Self:
        if self.entrypoint is not None:
            raise ValueError("a dev environment cannot have an entrypoint")
        if self.dstack and isinstance(self.inactivity_duration, int):
            raise ValueError("only one of dstack and inactivity_duration can be given")
        return self

    @property
    def script(self) -> list[str]:
        return [*self.init, "exec sleep 2147483647"]


AnyRun = TaskConfiguration | DevEnvironmentConfiguration
RUN_TYPES: dict[str, type[AnyRun]] = {"task": TaskConfiguration, "dev-environment": DevEnvironmentConfiguration}


def run_configuration(data: dict[str, Any]) -> AnyRun:
    """The model of a stored run's configuration."""
    return RUN_TYPES[data.get("type", "task")].model_validate(data)


def runnable(configuration: Any) -> AnyRun:
    """The configuration of a run that this version can carry out. Raises NotSupportedYet for other types, ConfigurationError."""
    if configuration.type == "fleet":
        raise ConfigurationError("a fleet is no run", hint="in Python: api.apply_fleet")
    if configuration.type not in RUN_TYPES:
        raise NotSupportedYet(
            f"type {configuration.type!r} is not supported yet", hint=f"this version runs {', '.join(RUN_TYPES)}"
        )
    run: AnyRun = configuration
    return run


BUILT = frozenset(
    {"type", "name", "commands", "env", "working_dir", "shell", "resources", "files", "repos", "nodes", "ports", "priority"}
    | {"image", "user", "privileged", "entrypoint", "registry_auth", "volumes", "ide", "init", "inactivity_duration"}
    | {"max_duration", "stop_duration", "max_price", "spot_policy", "backends", "regions", "instance_types", "tags", "fleets"}
    | {"retry", "schedule", "startup_order", "stop_criteria", "utilization_policy", "idle_duration", "creation_policy"}
)
DEAD = ("home_dir", "setup")
"""Keys that dstack itself accepts without effect."""


def unsupported(task: AnyRun) -> list[str]:
    """Keys that the user set, that mean something, and that this version does not carry out yet."""
    nothing: tuple[Any, ...] = (None, False, 0, "", [], {})
    missing = [key for key in task.model_fields_set - BUILT - set(DEAD) if getattr(task, key) not in nothing]
    # 0 would mean to kill at once; the launcher's 0 is to wait for ever.
    missing += ["stop_duration: 0"] if task.stop_duration == 0 else []
    missing += [f"repos.{key}" for repo in task.repos for key in ("url", "branch", "hash", "if_exists") if getattr(repo, key)]
    missing += ["ide: jupyter"] if isinstance(task, DevEnvironmentConfiguration) and task.ide == "jupyter" else []
    missing += ["volumes by name" for mount in task.volumes if mount.name is not None]
    if task.resources.gpu is not None and task.resources.gpu.compute_capability is not None:
        missing.append("resources.gpu.compute_capability")
    texts = {"commands": task.script, "env": task.env.values(), "working_dir": [task.working_dir]}
    missing += [f"{key}: ${{{{ … }}}}" for key, values in texts.items() if any("${{" in (text or "") for text in values)]
    return sorted(missing)


def notes(task: AnyRun) -> list[str]:
    """What a plan should say about keys that change nothing."""
    dead = [f"{key} has no effect, as in dstack" for key in DEAD if getattr(task, key)]
    tags = ["tags are kept with the run; they are not put on machines at a vendor yet"] if task.tags else []
    idle = ["idle_duration has no effect on machines of your own: they are never ended"] if task.idle_duration else []
    nodes = ["the nodes reach each other by SSH where their image (or host) has sshd"] if task.node_count > 1 else []
    dev = ["an IDE logs in by SSH where the image has sshd"] if task.type == "dev-environment" else []
    return dead + tags + idle + nodes + dev


def without_values(configuration: dict[str, Any]) -> dict[str, Any]:
    """A configuration to be shown: the names of its variables, not their values, which may be keys."""
    env = configuration.get("env")
    return {**configuration, "env": dict.fromkeys(env, SHOWN)} if env else configuration
