"""``type: lambda``. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ..config.base import APIKeyCreds, BackendConfig


class LambdaConfig(BackendConfig):
    """``type: lambda``."""

    type: Literal["lambda"]
    creds: APIKeyCreds
