"""``type: nebius``. Facts: reference ``configuration`` §2.2, §2.3, the backends page."""

from __future__ import annotations

import json
from typing import Literal, Self

from pydantic import model_validator

from ...models.base import Model
from ...models.secret import Secret
from ..config.base import BackendConfig, Filename, Labels, read_credentials

CLI_KEYS = {"service_account_id": "sub", "public_key_id": "kid", "private_key_content": "private-key"}
"""Our fields and those of ``subject-credentials`` in the file that `nebius iam auth-public-key generate` writes."""


class ServiceAccountCreds(Model):
    """``service_account``: ids and a private key (file or content), or ``filename``, the CLI's JSON that holds all three."""

    type: Literal["service_account"]
    service_account_id: str | None = None
    public_key_id: str | None = None
    private_key_file: Filename = None
    private_key_content: Secret | None = None
    filename: Filename = None

    @model_validator(mode="after")
    def _content(self) -> Self:
        if self.filename is not None:
            self._of_cli(read_credentials(self.filename, private_key=True))
            return self
        for name in ("service_account_id", "public_key_id"):
            if getattr(self, name) is None:
                raise ValueError(f"{name} is missing (or filename, the credentials file of the nebius CLI)")
        if self.private_key_file is None and not self.private_key_content:
            raise ValueError("either private_key_file or private_key_content is needed")
        if not self.private_key_content:
            self.__dict__["private_key_content"] = Secret(read_credentials(str(self.private_key_file), private_key=True))
        return self

    def _of_cli(self, text: str) -> None:
        try:
            key = json.loads(text)["subject-credentials"]
            values = {ours: key[theirs] for ours, theirs in CLI_KEYS.items()}
        except (ValueError, KeyError, TypeError):
            raise ValueError("the file is no credentials file of the nebius CLI") from None
        self.__dict__.update({**values, "private_key_content": Secret(str(values["private_key_content"]))})


class NebiusConfig(BackendConfig):
    """``type: nebius``. ``projects`` are Nebius's own, at most one a region; ``fabrics`` narrows InfiniBand."""

    type: Literal["nebius"]
    creds: ServiceAccountCreds
    projects: list[str] | None = None
    fabrics: list[str] | None = None
    tags: Labels | None = None

    def identity(self) -> str:
        return self.creds.service_account_id or ""
