"""``type: lium``. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ..config.base import BackendConfig, NonEmptyAPIKeyCreds


class LiumConfig(BackendConfig):
    """``type: lium``. Newer than the backends page."""

    type: Literal["lium"]
    creds: NonEmptyAPIKeyCreds
