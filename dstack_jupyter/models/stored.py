"""A run's configuration as the store holds it: validated once, every default filled, and read at each step of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .configurations import AnyRun, RunConfiguration, run_configuration


class StoredRun:
    """Typed access to a stored configuration. ``raw`` is what was stored; nobody changes it.

    The keys that each step asks for are read without making the model, which costs a hundred times as much. A key that is absent
    or null has the model's own default.
    """

    __slots__ = ("_task", "raw")

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self._task: AnyRun | None = None

    @property
    def task(self) -> AnyRun:
        """The model. Made at the first use."""
        if self._task is None:
            self._task = run_configuration(self.raw)
        return self._task

    def _value(self, name: str) -> Any:
        value = self.raw.get(name)
        return RunConfiguration.model_fields[name].default if value is None else value

    @property
    def nodes(self) -> int:
        """Jobs of one replica: 1 unless the run is a task with nodes."""
        return int(self.raw.get("nodes") or 1)

    @property
    def priority(self) -> int:
        return int(self._value("priority") or 0)

    @property
    def names_fleets(self) -> bool:
        return bool(self._value("fleets"))

    @property
    def only_reuses(self) -> bool:
        return bool(self._value("creation_policy") == "reuse")

    @property
    def startup_order(self) -> str:
        return str(self._value("startup_order") or "any")

    @property
    def master_decides(self) -> bool:
        return bool(self._value("stop_criteria") == "master-done")

    @property
    def cron(self) -> list[str]:
        """The lines of the run's schedule; [] without one."""
        schedule = self._value("schedule")
        if not schedule:
            return []
        lines = schedule["cron"]
        return list(lines) if isinstance(lines, list) else [lines]

    @property
    def has_policies(self) -> bool:
        """Whether retries, a schedule or a stop criterion decide about its end."""
        return any(self.raw.get(key) for key in ("retry", "schedule", "stop_criteria"))

    @property
    def limits(self) -> Limits:
        return Limits.of(self.raw)


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds a run's or fleet's machines in time, in seconds. ``max_duration`` 0: nothing bounds the job.

    ``idle_duration``: how long a machine waits for another job; None: nothing was said, ``off``: for ever.
    """

    max_duration: int = 0
    idle_duration: int | Literal["off"] | None = None

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> Limits:
        """Of a normalised configuration."""
        longest, idle = configuration.get("max_duration"), configuration.get("idle_duration")
        return cls(_seconds(longest) or 0, "off" if idle == "off" else _seconds(idle))

    @property
    def keeps(self) -> int:
        """Seconds for which a machine that a run made waits for other jobs afterwards; 0: it goes with its job.

        ``off`` keeps none: nobody could delete the fleet that such a machine is in.
        """
        return 0 if self.idle_duration == "off" else self.idle_duration or 0


def _seconds(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
