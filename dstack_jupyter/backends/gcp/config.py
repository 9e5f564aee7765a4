"""``type: gcp``. Facts: reference ``configuration`` §1.1, §2.2, §2.3."""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ...models.base import Model
from ...models.secret import Secret
from ..config.base import BackendConfig, DefaultCreds, Filename, Labels, read_credentials


class ServiceAccountCreds(Model):
    """``service_account``: the key's JSON file by ``filename``, or its content in ``data``."""

    type: Literal["service_account"]
    filename: Filename = None
    data: Secret | None = None

    @model_validator(mode="after")
    def _content(self) -> Self:
        if not self.data:
            if self.filename is None:
                raise ValueError("either filename or data is needed")
            self.__dict__["data"] = Secret(read_credentials(self.filename))
        self.email()
        return self

    def email(self) -> str:
        """The account's address. Raises ValueError where the content is no key of a service account."""
        try:
            key = json.loads(self.data.reveal() if self.data else "")
        except ValueError:
            raise ValueError("the key is not JSON") from None
        if not isinstance(key, dict) or not isinstance(key.get("client_email"), str):
            raise ValueError("the JSON is no key of a service account: client_email is missing")
        return str(key["client_email"])


class GCPConfig(BackendConfig):
    """``type: gcp``. TPUs are offered unless ``tpu`` is false, as in the seed era."""

    type: Literal["gcp"]
    project_id: str
    creds: Annotated[ServiceAccountCreds | DefaultCreds, Field(discriminator="type")]
    vpc_name: str | None = None
    extra_vpcs: list[str] | None = None
    roce_vpcs: list[str] | None = Field(default=None, max_length=1)
    vpc_project_id: str | None = None
    subnetworks: dict[str, str] | None = None
    public_ips: bool | None = None
    nat_check: bool | None = None
    vm_service_account: str | None = None
    tags: Labels | None = None
    tpu: bool | None = None
    preview_features: list[Literal["g4"]] | None = None

    @model_validator(mode="after")
    def _network(self) -> Self:
        if self.subnetworks and self.vpc_name is None:
            raise ValueError("subnetworks needs vpc_name")
        return self

    def identity(self) -> str:
        who = f"{self.creds.email()}, " if isinstance(self.creds, ServiceAccountCreds) else ""
        return f"{who}project {self.project_id}"

    def notes(self) -> list[str]:
        return [] if self.tpu is not None else ["TPUs are offered, as in dstack 0.19; newer releases need `tpu: true`"]
