"""``type: service``: a run that answers requests. Facts: reference ``configuration`` §4.1."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from .base import Model
from .configurations import Commands, RunConfiguration
from .durations import Duration, parse_duration
from .resources import CountRange, Resources
from .run_parts import Port, Python, RegistryAuth

MOST_PROBES = 10


class Replicas(CountRange):
    """How many replicas: ``2``, ``0..4``; a maximum is always needed."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.max is None:
            raise ValueError("a maximum is needed, such as 2 or 0..4")
        return self

    @property
    def varies(self) -> bool:
        return self.min != self.max


class Scaling(Model):
    """When replicas come and go. ``target`` is requests a second for one replica; delays are seconds."""

    metric: Literal["rps"]
    target: float = Field(gt=0, allow_inf_nan=False)
    scale_up_delay: Duration = 300
    scale_down_delay: Duration = 600
    window: Annotated[Literal[30, 60, 300], BeforeValidator(parse_duration)] | None = None


class RateLimitKey(Model):
    """Whom a limit counts: an address, or the value of a header."""

    type: Literal["ip_address", "header"]
    header: str | None = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.type == "header") != (self.header is not None):
            raise ValueError("header is needed for type header, and only there")
        return self


class RateLimit(Model):
    """Requests a second that one caller may make below ``prefix``."""

    prefix: Annotated[str, Field(pattern=r"^/")] = "/"
    key: RateLimitKey | Literal["ip_address", "header"] = "ip_address"
    rps: float = Field(ge=1 / 60, allow_inf_nan=False)
    burst: int = Field(default=0, ge=0)


class ProbeHeader(Model):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    value: Annotated[str, Field(max_length=2048)]


class Probe(Model):
    """A request that tells whether a replica is ready. ``timeout`` and ``interval`` are seconds."""

    type: Literal["http"]
    url: Annotated[str, Field(pattern=r"^/", max_length=2048)] = "/"
    method: Literal["get", "post", "put", "delete", "patch", "head"] = "get"
    headers: list[ProbeHeader] = Field(default=[], max_length=16)
    body: Annotated[str, Field(max_length=2048)] | None = None
    timeout: Annotated[Duration, Field(ge=1)] = 10
    interval: Annotated[Duration, Field(ge=1)] = 15
    ready_after: int = Field(default=1, ge=1)
    until_ready: bool = False

    @model_validator(mode="after")
    def _body_fits(self) -> Self:
        if self.body is not None and self.method in ("get", "head"):
            raise ValueError(f"a {self.method} request has no body")
        return self


class OpenAIModel(Model):
    """A chat model that speaks OpenAI's protocol below ``prefix``."""

    type: Literal["chat"] = "chat"
    name: str
    format: Literal["openai"] = "openai"
    prefix: str = "/v1"


class TGIModel(Model):
    """A chat model of a text-generation-inference server."""

    type: Literal["chat"] = "chat"
    name: str
    format: Literal["tgi"]
    chat_template: str | None = None
    eos_token: str | None = None


def _model(value: object) -> object:
    """A bare name is an OpenAI chat model; without ``format`` it is OpenAI's."""
    if isinstance(value, str):
        return {"name": value, "format": "openai"}
    if isinstance(value, dict) and "format" not in value:
        return {**value, "format": "openai"}
    return value


def _port(value: object) -> object:
    """A bare ``N`` is reached at 80."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"local_port": 80, "container_port": value}
    return value


class ServiceRouter(Model):
    """What spreads requests over the replicas of a group."""

    type: Literal["sglang"]
    policy: Literal["random", "round_robin", "cache_aware", "power_of_two"] | None = None
    pd_disaggregation: bool | None = None


class ServiceGroup(Model):
    """Replicas of one kind in a service of several (``groups``)."""

    name: str | None = None
    replicas: Replicas = Replicas(min=1, max=1)
    resources: Resources | None = None
    commands: Commands = []
    image: str | None = None
    docker: bool | None = None
    nvcc: bool | None = None
    privileged: bool | None = None
    python: Python | None = None
    registry_auth: RegistryAuth | None = None
    scaling: Scaling | None = None
    spot_policy: Literal["spot", "on-demand", "auto"] | None = None
    reservation: str | None = None
    router: ServiceRouter | None = None


class ServiceConfiguration(RunConfiguration):
    """``type: service``."""

    type: Literal["service"] = "service"
    commands: Commands = []
    port: Annotated[Port, BeforeValidator(_port)]
    gateway: bool | str | None = None
    strip_prefix: bool = True
    model: Annotated[Annotated[OpenAIModel | TGIModel, Field(discriminator="format")] | None, BeforeValidator(_model)] = None
    https: bool | Literal["auto"] = True
    auth: bool = True
    scaling: Scaling | None = None
    replicas: Replicas = Replicas(min=1, max=1)
    rate_limits: list[RateLimit] = []
    probes: list[Probe] | None = Field(default=None, max_length=MOST_PROBES)
    groups: list[ServiceGroup] | None = None
    router: ServiceRouter | None = None

    @field_validator("rate_limits")
    @classmethod
    def _prefixes(cls, value: list[RateLimit]) -> list[RateLimit]:
        prefixes = [limit.prefix for limit in value]
        if len(set(prefixes)) != len(prefixes):
            raise ValueError("a prefix is given twice")
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        if not self.commands and self.image is None and not self.groups:
            raise ValueError("either commands or image is needed")
        if self.replicas.varies and self.scaling is None:
            raise ValueError("a range of replicas needs scaling")
        if self.scaling is not None and not self.replicas.varies and not self.groups:
            raise ValueError("scaling needs a range of replicas")
        return self

    @property
    def script(self) -> list[str]:
        return self.commands
