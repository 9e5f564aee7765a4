"""Fields that a profile and a run share (reference ``configuration`` §4.2). A run's own value wins."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from .base import Model
from .durations import Duration, DurationOrOff, IdleDuration


class Retry(Model):
    on_events: list[Literal["no-capacity", "interruption", "error"]] = ["no-capacity", "interruption", "error"]
    duration: Duration = 3600


class UtilizationPolicy(Model):
    min_gpu_utilization: int = Field(ge=0, le=100)
    time_window: Annotated[Duration, Field(ge=300)]


class Schedule(Model):
    cron: str | list[str]

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str | list[str]) -> str | list[str]:
        for line in [value] if isinstance(value, str) else value:
            if len(line.split()) != 5:
                raise ValueError("expected five fields (UTC), such as 0 8 * * 1-5")
        return value


class ProfileParams(Model):
    """Both eras' fields, the removed ones included: a YAML that dstack took once still parses."""

    backends: list[str] | None = None
    regions: list[str] | None = None
    availability_zones: list[str] | None = None
    instance_types: list[str] | None = None
    reservation: str | None = None
    spot_policy: Literal["spot", "on-demand", "auto"] | None = None
    retry: bool | Retry | None = None
    max_duration: DurationOrOff = None
    stop_duration: DurationOrOff = None
    max_price: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    creation_policy: Literal["reuse", "reuse-or-create"] | None = None
    idle_duration: IdleDuration = None
    utilization_policy: UtilizationPolicy | None = None
    startup_order: Literal["any", "master-first", "workers-first"] | None = None
    stop_criteria: Literal["all-done", "master-done"] | None = None
    schedule: Schedule | None = None
    fleets: list[str | dict[str, Any]] | None = None
    tags: dict[str, str] | None = None
    instances: list[Any] | None = None
    backend_options: list[Any] | dict[str, Any] | None = None
    pool_name: str | None = None
    instance_name: str | None = None
    retry_policy: dict[str, Any] | None = None
    termination_policy: str | None = None
    termination_idle_time: DurationOrOff = None

    @field_validator("max_duration")
    @classmethod
    def _some_time(cls, value: int | str | None) -> int | str | None:
        if value == 0:
            raise ValueError("0 leaves no time at all; write off for no limit")
        return value
