"""``type: vultr``. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ..config.base import APIKeyCreds, BackendConfig


class VultrConfig(BackendConfig):
    """``type: vultr``."""

    type: Literal["vultr"]
    creds: APIKeyCreds
