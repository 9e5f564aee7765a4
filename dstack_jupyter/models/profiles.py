"""Fields that a profile and a run share (reference ``configuration`` §4.2). A run's own value wins."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from .base import Model
from .durations import Duration, DurationOrOff


class Retry(Model):
    on_events: list[Literal["no-capacity", "interruption", "error"]] = ["no-capacity", "interruption", "error"]
    duration: Duration = 3600


class UtilizationPolicy(Model):
    min_gpu_utilization: int = Field(ge=0, le=100)
    time_window: Duration


class Schedule(Model):
    cron: str | list[str]


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
    max_price: float | None = Field(default=None, gt=0)
    creation_policy: Literal["reuse", "reuse-or-create"] | None = None
    idle_duration: DurationOrOff | Literal[-1] = None
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
