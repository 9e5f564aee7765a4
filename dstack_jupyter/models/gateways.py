"""``type: gateway``: the machine that services are reached through. Facts: reference ``configuration`` §1.1, §4.3."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from .base import Model
from .configurations import RUN_NAME
from .references import Tags
from .services import ServiceRouter


class LetsEncryptCertificate(Model):
    type: Literal["lets-encrypt"] = "lets-encrypt"


class ACMCertificate(Model):
    """A certificate of AWS Certificate Manager."""

    type: Literal["acm"]
    arn: str


class GCPCertificate(Model):
    """A certificate of GCP Certificate Manager."""

    type: Literal["gcp-cm"]
    name: str | None = None
    map: str | None = None


Certificate = Annotated[LetsEncryptCertificate | ACMCertificate | GCPCertificate, Field(discriminator="type")]


class GatewayConfiguration(Model):
    """``type: gateway``."""

    type: Literal["gateway"] = "gateway"
    name: str | None = None
    default: bool = False
    backend: str
    region: str
    domain: str | None = None
    public_ip: bool = True
    certificate: Certificate | None = LetsEncryptCertificate()
    tags: Tags | None = None
    instance_type: str | None = None
    load_balancer: Literal["alb"] | None = None
    replicas: int | None = Field(default=None, ge=1)
    router: ServiceRouter | None = None

    @field_validator("name")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        if value is not None and not RUN_NAME.fullmatch(value):
            raise ValueError("a gateway's name has 2 to 41 of a-z, 0-9 and -, and begins with a letter")
        return value

    @model_validator(mode="after")
    def _certificate_fits(self) -> Self:
        if isinstance(self.certificate, ACMCertificate) and self.backend != "aws":
            raise ValueError("acm certificates are for aws gateways")
        if isinstance(self.certificate, GCPCertificate) and self.backend != "gcp":
            raise ValueError("gcp-cm certificates are for gcp gateways")
        return self

    def given(self) -> dict[str, Any]:
        """What the user gave, as JSON."""
        return {**self.model_dump(mode="json", exclude_unset=True), "type": self.type}
