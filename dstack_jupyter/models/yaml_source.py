"""A configuration from YAML: every fault in one pass, each with its place and, for a wrong key, the nearest right one."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from .configurations import RunConfiguration
from .errors import ConfigurationError
from .faults import problems
from .yaml_reader import KeyPath, Source, read_file, read_yaml

if TYPE_CHECKING:
    from .configurations import DevEnvironmentConfiguration, TaskConfiguration
    from .fleets import FleetConfiguration
    from .gateways import GatewayConfiguration
    from .services import ServiceConfiguration
    from .volumes import VolumeConfiguration

    Configuration = (
        TaskConfiguration
        | DevEnvironmentConfiguration
        | ServiceConfiguration
        | FleetConfiguration
        | VolumeConfiguration
        | GatewayConfiguration
    )

TYPES = {
    "task": "configurations:TaskConfiguration",
    "dev-environment": "configurations:DevEnvironmentConfiguration",
    "service": "services:ServiceConfiguration",
    "fleet": "fleets:FleetConfiguration",
    "volume": "volumes:VolumeConfiguration",
    "gateway": "gateways:GatewayConfiguration",
}
"""Every type and its model; a module is imported when its type is met."""
INVALID = "the configuration is not valid"


def model_of(kind: str) -> type[BaseModel]:
    """The model of a type in ``TYPES``."""
    module, _, name = TYPES[kind].partition(":")
    model: type[BaseModel] = getattr(importlib.import_module(f"{__package__}.{module}"), name)
    return model


def load_configuration(
    text: str | Path, *, file: str = "", env: Mapping[str, str] | None = None, first_line: int = 1
) -> Configuration:
    """The configuration of a run, fleet, volume or gateway from YAML text, or from the file that a Path names.

    ``env`` fills variables that are named without a value; None leaves them open. ``file`` is what messages call the text;
    ``first_line`` the number of its first line there (a cell's body starts at 2). Raises ConfigurationError with every fault
    and its place, LimitExceeded, NotFound.
    """
    if isinstance(text, Path):
        text, file = read_file(text), file or str(text)
    source = read_yaml(text, file, first_line)
    configuration = validate(source)
    if env is not None and isinstance(configuration, RunConfiguration):
        _resolve(configuration, source, env)
    return configuration


def _resolve(configuration: RunConfiguration, source: Source, env: Mapping[str, str]) -> None:
    missing = configuration.resolve_env(dict(env))
    if missing:
        hint = "set it there, or write NAME=value"
        faults = [
            source.problem(_env_path(source.data["env"], name), f"{name} has no value, here or in your environment", hint)
            for name in missing
        ]
        raise ConfigurationError(INVALID, problems=faults)


def validate(source: Source) -> Configuration:
    """The model of a configuration's data. Raises ConfigurationError with every fault."""
    if not isinstance(source.data, dict):
        message = "is empty" if source.data is None else "is not a map of keys"
        raise ConfigurationError(
            INVALID, problems=[source.problem((), f"the configuration {message}", "begin with `type: task`")]
        )
    if "type" not in source.data:
        raise ConfigurationError(INVALID, problems=[source.problem(("type",), "is missing", "add `type: task`")])
    kind = source.data["type"]
    if not isinstance(kind, str) or kind not in TYPES:
        near = difflib.get_close_matches(str(kind), TYPES, 1) if isinstance(kind, str) else []
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(TYPES)}"
        raise ConfigurationError(INVALID, problems=[source.problem(("type",), "unknown type", hint)])
    configuration: Configuration = validated(source, model_of(kind))
    return configuration


def validated(source: Source, model: type[BaseModel], prefix: KeyPath = ()) -> Any:
    """The data at ``prefix`` as ``model``. Raises ConfigurationError with every fault."""
    data = source.data
    for part in prefix:
        data = data[part]
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(INVALID, problems=problems(source, error, model, prefix)) from None


def _env_path(env: Any, name: str) -> KeyPath:
    return ("env", env.index(name)) if isinstance(env, list) else ("env", name)
