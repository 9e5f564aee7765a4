"""``type: datacrunch``, in the newer era ``type: verda``. Facts: reference ``configuration`` §1.1, §2.2."""

from __future__ import annotations

from typing import Literal

from ...models.base import Model
from ...models.secret import Secret
from ..config.base import BackendConfig


class ClientCreds(Model):
    """``api_key``: REST API credentials, a pair."""

    type: Literal["api_key"]
    client_id: str
    client_secret: Secret


class DataCrunchConfig(BackendConfig):
    """``type: datacrunch`` or ``verda``."""

    type: Literal["datacrunch", "verda"]
    creds: ClientCreds

    def identity(self) -> str:
        return f"client {self.creds.client_id}"
