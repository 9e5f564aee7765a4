"""``type: seeweb``: newer than the backends page. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ...models.base import Model
from ...models.secret import Secret
from ..config.base import BackendConfig


class TokenCreds(Model):
    type: Literal["api_token"]
    api_token: Secret


class SeewebConfig(BackendConfig):
    """``type: seeweb``."""

    type: Literal["seeweb"]
    creds: TokenCreds
