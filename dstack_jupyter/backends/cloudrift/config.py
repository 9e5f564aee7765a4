"""``type: cloudrift``. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ..config.base import APIKeyCreds, BackendConfig


class CloudRiftConfig(BackendConfig):
    """``type: cloudrift``."""

    type: Literal["cloudrift"]
    creds: APIKeyCreds
