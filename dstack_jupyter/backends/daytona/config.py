"""``type: daytona``. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ..config.base import BackendConfig, NonEmptyAPIKeyCreds


class DaytonaConfig(BackendConfig):
    """``type: daytona``. Newer than the backends page."""

    type: Literal["daytona"]
    creds: NonEmptyAPIKeyCreds
