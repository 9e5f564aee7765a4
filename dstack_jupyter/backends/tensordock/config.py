"""``type: tensordock``: marked deprecated by dstack; it parses. Facts: reference ``configuration`` §1.1, §2.2."""

from __future__ import annotations

from typing import Literal

from ...models.base import Model
from ...models.secret import Secret
from ..config.base import BackendConfig


class KeyAndTokenCreds(Model):
    type: Literal["api_key"]
    api_key: Secret
    api_token: Secret


class TensorDockConfig(BackendConfig):
    """``type: tensordock``."""

    type: Literal["tensordock"]
    creds: KeyAndTokenCreds
