"""``type: fleet``: machines that runs may use. Facts: reference ``configuration`` §4.3."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from .base import Model
from .configurations import RUN_NAME
from .profiles import ProfileParams
from .resources import CountRange, Resources
from .run_parts import Env, Text

BlockCount = Annotated[int, Field(ge=1)] | Literal["auto"]
"""Into how many equal parts a machine may be split; ``auto``: one for each GPU (or core, where there is no GPU)."""
Portnumber = Annotated[int, Field(ge=1, le=65535)]


def _private(value: str) -> str:
    if not ipaddress.ip_address(value).is_private:
        raise ValueError("expected a private IP address")
    return value


def _private_network(value: str) -> str:
    if not ipaddress.ip_network(value, strict=False).is_private:
        raise ValueError("expected a private network such as 10.0.0.0/24")
    return value


class ProxyJump(Model):
    """The host that is logged in to first; a host is reached from there."""

    hostname: Text
    port: Portnumber = 22
    user: Text
    identity_file: Text | None = None


class SSHHost(Model):
    """One host; what it leaves out comes from the fleet's ``ssh_config``."""

    hostname: Text
    port: Portnumber | None = None
    user: Text | None = None
    identity_file: Text | None = None
    proxy_jump: ProxyJump | None = None
    internal_ip: Annotated[str, AfterValidator(_private)] | None = None
    blocks: BlockCount | None = None


def _host(value: object) -> object:
    return {"hostname": value} if isinstance(value, str) else value


class SSHParams(Model):
    user: Text | None = None
    port: Portnumber | None = None
    identity_file: Text | None = None
    proxy_jump: ProxyJump | None = None
    network: Annotated[str, AfterValidator(_private_network)] | None = None
    hosts: Annotated[list[Annotated[SSHHost, BeforeValidator(_host)]], Field(min_length=1)]

    @field_validator("hosts")
    @classmethod
    def _different(cls, value: list[SSHHost]) -> list[SSHHost]:
        names = [(host.hostname, host.port) for host in value]
        if len(set(names)) != len(names):
            raise ValueError("a host is given twice")
        return value


class NodesRange(Model):
    """How many instances a cloud fleet keeps and may have."""

    min: int = Field(default=0, ge=0)
    target: int | None = None
    max: int | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        target = self.min if self.target is None else self.target
        if target < self.min or (self.max is not None and (self.max < 1 or target > self.max)):
            raise ValueError("expected min <= target <= max, and max of 1 or more")
        return self

    @property
    def wanted(self) -> int:
        """How many machines it begins with."""
        return self.min if self.target is None else self.target


def _nodes(value: object) -> object:
    if isinstance(value, int | str) and not isinstance(value, bool):
        counts = CountRange.model_validate(value)
        return {"min": counts.min or 0, "target": counts.min or 0, "max": counts.max}
    return value


class FleetConfiguration(ProfileParams):
    """``type: fleet``: hosts of one's own by ``ssh_config``, or machines of clouds by ``nodes``."""

    type: Literal["fleet"] = "fleet"
    name: str | None = None
    env: Env = {}
    placement: Literal["any", "cluster"] | None = None
    blocks: BlockCount = 1
    ssh_config: SSHParams | None = None
    nodes: Annotated[NodesRange, BeforeValidator(_nodes)] | None = None
    resources: Resources | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        if value is not None and not RUN_NAME.fullmatch(value):
            raise ValueError("a fleet's name has 2 to 41 of a-z, 0-9 and -, and begins with a letter")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.ssh_config is None) == (self.nodes is None):
            raise ValueError("exactly one of ssh_config and nodes is needed")
        if self.ssh_config is not None:
            for host in self.ssh_config.hosts:
                if host.user is None and self.ssh_config.user is None:
                    raise ValueError(f"no user is given for host {host.hostname}: set ssh_config.user")
        return self

    def given(self) -> dict[str, Any]:
        """What the user gave, as JSON."""
        return {**self.model_dump(mode="json", exclude_unset=True), "type": self.type}


BUILT = frozenset({"type", "name", "placement", "env"})
"""What is carried out for every fleet; the others for hosts of one's own, and for machines of clouds."""
BUILT_SSH = BUILT | {"ssh_config", "blocks"}
BUILT_CLOUD = BUILT | {
    "nodes", "resources", "backends", "regions", "availability_zones", "instance_types", "spot_policy", "max_price",
    "idle_duration",
}  # fmt: skip


def unsupported(fleet: FleetConfiguration) -> list[str]:
    """Keys that the user set and that this version does not carry out yet."""
    nothing: tuple[Any, ...] = (None, False, 0, "", [], {})
    built = BUILT_CLOUD if fleet.nodes is not None else BUILT_SSH
    missing = {key for key in fleet.model_fields_set - built if getattr(fleet, key) not in nothing}
    return sorted(missing - {"blocks"} if fleet.blocks == 1 else missing)
