"""Fields that a profile and a run share (reference ``configuration`` §4.2), and ``.dstack/profiles.yml``.

A run's own value wins over its profile's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from .base import Model
from .durations import Duration, DurationOrOff, IdleDuration
from .references import FleetReference, InstanceReference, Tags


class Retry(Model):
    on_events: list[Literal["no-capacity", "interruption", "error"]] = ["no-capacity", "interruption", "error"]
    duration: Duration = 3600


class UtilizationPolicy(Model):
    """Ends a run when any of its GPUs was less busy than this, in percent, for the whole window."""

    min_gpu_utilization: int = Field(ge=0, le=100)
    time_window: Annotated[Duration, Field(ge=300)]


class Schedule(Model):
    """When a run starts again, UTC."""

    cron: str | list[str]

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str | list[str]) -> str | list[str]:
        for line in [value] if isinstance(value, str) else value:
            if len(line.split()) != 5:
                raise ValueError("expected five fields (UTC), such as 0 8 * * 1-5")
        return value


class RetryPolicy(Model):
    """The seed era's first form of ``retry``."""

    retry: bool = False
    duration: Duration | None = None


class VastAIOptions(Model):
    """What a run may ask of Vast.ai's market."""

    type: Literal["vastai"] = "vastai"
    offer_order: Literal["score", "price"] | None = None
    min_reliability: float | None = Field(default=None, ge=0, le=1)
    min_score: float | None = Field(default=None, ge=0, allow_inf_nan=False)


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
    fleets: list[FleetReference] | None = None
    tags: Tags | None = None
    instances: list[InstanceReference] | None = None
    backend_options: list[VastAIOptions] | dict[Literal["vastai"], VastAIOptions] | None = None
    pool_name: str | None = None
    instance_name: str | None = None
    retry_policy: RetryPolicy | None = None
    termination_policy: Literal["dont-destroy", "destroy-after-idle"] | None = None
    termination_idle_time: IdleDuration = None

    @field_validator("max_duration")
    @classmethod
    def _some_time(cls, value: int | str | None) -> int | str | None:
        if value == 0:
            raise ValueError("0 leaves no time at all; write off for no limit")
        return value


class Profile(ProfileParams):
    """One entry of ``.dstack/profiles.yml``."""

    name: str
    default: bool = False


class ProfilesFile(Model):
    """``.dstack/profiles.yml``. At most one profile is the default."""

    profiles: list[Profile]

    @model_validator(mode="after")
    def _different(self) -> Self:
        names = [profile.name for profile in self.profiles]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"the profile {twice!r} is given twice")
        if sum(profile.default for profile in self.profiles) > 1:
            raise ValueError("only one profile can be the default")
        return self

    def given(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_unset=True)
