"""``type: oci``. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ...models.base import Model
from ...models.secret import Secret
from ..config.base import BackendConfig, Filename, read_credentials


class ClientCreds(Model):
    """``client``: an API key of a user; its private half by ``key_file`` or in ``key_content``."""

    type: Literal["client"]
    user: str
    tenancy: str
    fingerprint: str
    region: str
    key_file: Filename = None
    key_content: Secret | None = None
    pass_phrase: Secret | None = None

    @model_validator(mode="after")
    def _content(self) -> Self:
        if (self.key_file is None) == (not self.key_content):
            raise ValueError("exactly one of key_file and key_content is needed")
        if self.key_file is not None:
            self.__dict__["key_content"] = Secret(read_credentials(self.key_file, private_key=True))
        return self


class DefaultFileCreds(Model):
    """``default``: a profile of the OCI tools' own file."""

    type: Literal["default"]
    file: str = "~/.oci/config"
    profile: str = "DEFAULT"


class OCIConfig(BackendConfig):
    """``type: oci``. Without ``compartment_id`` one is made for us."""

    type: Literal["oci"]
    creds: Annotated[ClientCreds | DefaultFileCreds, Field(discriminator="type")]
    compartment_id: str | None = None
    experimental_instance_types: list[str] | None = None

    def identity(self) -> str:
        return self.creds.user if isinstance(self.creds, ClientCreds) else f"profile {self.creds.profile}"
