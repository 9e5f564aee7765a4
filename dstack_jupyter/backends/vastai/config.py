"""``type: vastai``. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ..config.base import APIKeyCreds, BackendConfig


class VastAIConfig(BackendConfig):
    """``type: vastai``. ``community_cloud`` is true where nothing is said."""

    type: Literal["vastai"]
    creds: APIKeyCreds
    community_cloud: bool | None = None
