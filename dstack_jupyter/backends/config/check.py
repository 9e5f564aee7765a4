"""Any configuration that dstack users have, understood or refused with every fault and its place. Runs nothing, calls nobody."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...models.configurations import RunConfiguration, notes, unsupported
from ...models.errors import ConfigurationError, Problem
from ...models.fleets import FleetConfiguration
from ...models.fleets import unsupported as unsupported_of_fleet
from ...models.profiles import ProfilesFile
from ...models.yaml_reader import Source, read_file, read_yaml
from ...models.yaml_source import INVALID, TYPES, validate, validated
from ..registry import CONFIGS
from .file import ServerConfig, of_source

KINDS = (*TYPES, "profiles", "config", "backend")
"""What a file can be: a run's, fleet's, volume's or gateway's type, profiles.yml, config.yml, one backend's entry."""
COMMON = {"spot_policy": "on-demand", "max_duration": "off", "stop_duration": 300, "creation_policy": "reuse-or-create"}
DEFAULTS: dict[str, dict[str, Any]] = {
    "run": {**COMMON, "retry": False, "idle_duration": 300, "startup_order": "any", "stop_criteria": "all-done", "priority": 0},
    "fleet": {**COMMON, "retry": False, "idle_duration": 259200, "placement": "any"},
}
"""Defaults that depend on who asks (reference ``configuration`` §4.2), filled into what `check` prints."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What `check` found. ``configuration`` is normalised: defaults filled, memory in GB, durations in seconds, no secrets."""

    file: str
    kind: str = ""
    configuration: dict[str, Any] | None = None
    errors: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        return not self.errors

    def to_json(self) -> dict[str, Any]:
        """``{valid, kind, configuration | errors, notes}`` (docs/decisions.md, details)."""
        result: dict[str, Any] = {"valid": self.valid, "kind": self.kind}
        if self.valid:
            result["configuration"] = self.configuration
        else:
            result["errors"] = [asdict(problem) for problem in self.errors]
        return {**result, "notes": self.notes}


def check(text: str | Path, *, file: str = "", env: Mapping[str, str] | None = None, first_line: int = 1) -> Checked:
    """Check a configuration of any kind, from text or from the file that a Path names. Raises nothing for a bad one.

    ``env`` gives variables without a value theirs; variables that it lacks are noted. Raises NotFound, and
    ConfigurationError for a file that cannot be read at all.
    """
    if isinstance(text, Path):
        text, file = read_file(text), file or str(text)
    try:
        source = read_yaml(text, file, first_line)
    except ConfigurationError as error:
        return Checked(file, errors=error.problems)
    try:
        return _checked(source, env or {})
    except ConfigurationError as error:
        return Checked(file, _kind(source.data), errors=error.problems)


def _kind(data: Any) -> str:
    if not isinstance(data, dict):
        return ""
    if "type" in data:
        kind = data["type"]
        return kind if isinstance(kind, str) and kind in TYPES else "backend" if kind in CONFIGS else ""
    return "profiles" if "profiles" in data else "config" if "projects" in data else ""


def _checked(source: Source, env: Mapping[str, str]) -> Checked:
    kind = _kind(source.data)
    if kind in ("config", "backend"):
        return _of_server(source, kind)
    if kind == "profiles":
        profiles = validated(source, ProfilesFile)
        return Checked(source.file, kind, profiles.model_dump(mode="json"))
    if isinstance(source.data, dict) and "type" not in source.data:
        roots = ("type", "projects", "profiles")
        root = next((name for key in source.data for name in difflib.get_close_matches(str(key), roots, 1)), "")
        hint = f"did you mean {root!r}?" if root else "a run, fleet or volume begins with `type:`, config.yml with `projects:`"
        raise ConfigurationError(INVALID, problems=[source.problem((), "neither type, projects nor profiles is given", hint)])
    if isinstance(source.data, dict) and isinstance(source.data.get("type"), str) and not kind:
        near = difflib.get_close_matches(source.data["type"], [*TYPES, *CONFIGS], 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(TYPES)}"
        raise ConfigurationError(INVALID, problems=[source.problem(("type",), "unknown type", hint)])
    parsed = validate(source)
    configuration = parsed.model_dump(mode="json")
    said: list[str] = []
    if isinstance(parsed, RunConfiguration):
        _fill(configuration, DEFAULTS["run"])
        missing = sorted(name for name, value in parsed.env.items() if value is None and name not in env)
        said += [f"{name} has no value here: apply will ask for it" for name in missing]
        if parsed.type in ("task", "dev-environment"):
            said += [*notes(parsed), *(f"{key}: not supported yet, apply refuses it" for key in unsupported(parsed))]
        if parsed.budget is not None:
            said.append("budget is our own key: dstack refuses it")
        if getattr(parsed, "ide", None) == "jupyter":
            said.append("ide: jupyter is our own: dstack refuses it")
    elif isinstance(parsed, FleetConfiguration):
        _fill(configuration, DEFAULTS["fleet"])
        said += [f"{key}: not supported yet, apply refuses it" for key in unsupported_of_fleet(parsed)]
    if parsed.type in ("service", "volume", "gateway"):
        said.append(f"type {parsed.type!r} is not supported yet: apply refuses it")
    if configuration.get("env"):
        configuration["env"] = dict.fromkeys(configuration["env"], "***")
    return Checked(source.file, parsed.type, configuration, notes=said)


def _fill(configuration: dict[str, Any], defaults: dict[str, Any]) -> None:
    for key, value in defaults.items():
        if configuration.get(key) is None:
            configuration[key] = value


def _of_server(source: Source, kind: str) -> Checked:
    server: ServerConfig = of_source(source)
    if server.problems:
        return Checked(source.file, kind, errors=server.problems)
    dumped = {project: [config.model_dump(mode="json") for config in each.values()] for project, each in server.backends.items()}
    entries = [item for each in server.backends.values() for item in each.items()]
    said = [f"{name}: {note}" for name, config in entries for note in config.notes()]
    if any(name == "dstack" for name, _ in entries):
        said.append("dstack: the hosted marketplace (dstack Sky) is not available here")
    if server.root is not None and server.root.encryption is not None:
        said.append("encryption: these keys are for dstack's own database; ours is always encrypted, with a key of its own")
    if kind == "backend":
        return Checked(source.file, kind, dumped["main"][0], notes=said)
    root = server.root.model_dump(mode="json") if server.root is not None else {}
    root["projects"] = [{"name": name, "backends": each} for name, each in dumped.items()]
    return Checked(source.file, kind, root, notes=said)
