"""``type: aws``. Facts: reference ``configuration`` §2.2, §2.4."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ...models.base import Model
from ...models.references import Tags
from ..config.base import AccessKeyCreds, BackendConfig, DefaultCreds, number_as_text


class OSImage(Model):
    """An AMI by name. ``owner`` is ``self`` or an account's 12 digits; ``user`` logs in."""

    name: str
    owner: Annotated[str, BeforeValidator(number_as_text), Field(pattern=r"^(self|\d{12})$")] = "self"
    user: str


class OSImages(Model):
    """Images of one's own; where one is left out its instance types are not offered."""

    cpu: OSImage | None = None
    nvidia: OSImage | None = None


class AWSConfig(BackendConfig):
    """``type: aws``."""

    type: Literal["aws"]
    creds: Annotated[AccessKeyCreds | DefaultCreds, Field(discriminator="type")]
    vpc_name: str | None = None
    vpc_ids: dict[str, str] | None = None
    default_vpcs: bool | None = None
    public_ips: bool | None = None
    iam_instance_profile: str | None = None
    tags: Tags | None = None
    os_images: OSImages | None = None
    experimental_instance_types: list[str] | None = None

    @model_validator(mode="after")
    def _network(self) -> Self:
        if self.vpc_name is not None and self.vpc_ids is not None:
            raise ValueError("only one of vpc_name and vpc_ids can be given")
        if self.default_vpcs is False and self.vpc_name is None and self.vpc_ids is None:
            raise ValueError("default_vpcs: false needs vpc_name or vpc_ids")
        return self

    def identity(self) -> str:
        return f"access key {self.creds.access_key}" if isinstance(self.creds, AccessKeyCreds) else ""
