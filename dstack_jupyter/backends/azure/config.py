"""``type: azure``. Facts: reference ``configuration`` §2.2, §2.5."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ...models.base import Model
from ...models.references import Tags
from ...models.secret import Secret
from ..config.base import BackendConfig, DefaultCreds, GroupAndName, GroupNetworkSubnet, tags_like

TAG_RULE = tags_like(r"[^<>&\\%?/]{1,512}", r".{0,256}", "a key without < > & \\ % ? /")


class ClientCreds(Model):
    """``client``: a service principal. ``tenant_id`` is the configuration's own if it is left out."""

    type: Literal["client"]
    client_id: str
    client_secret: Secret
    tenant_id: str | None = None


class AzureConfig(BackendConfig):
    """``type: azure``. ``vpc_ids`` are region → ``group/network``, ``subnet_ids`` region → ``group/network/subnet``."""

    type: Literal["azure"]
    tenant_id: str
    subscription_id: str
    creds: Annotated[ClientCreds | DefaultCreds, Field(discriminator="type")]
    resource_group: str | None = None
    vpc_ids: dict[str, GroupAndName] | None = None
    subnet_ids: dict[str, GroupNetworkSubnet] | None = None
    public_ips: bool | None = None
    vm_managed_identity: GroupAndName | None = None
    tags: Annotated[Tags, AfterValidator(TAG_RULE)] | None = None

    def identity(self) -> str:
        who = f"client {self.creds.client_id}, " if isinstance(self.creds, ClientCreds) else ""
        return f"{who}subscription {self.subscription_id}"
