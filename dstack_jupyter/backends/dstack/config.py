"""``type: dstack``: the hosted marketplace (dstack Sky), which is not available here. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ..config.base import BackendConfig


class DstackConfig(BackendConfig):
    """``type: dstack``."""

    type: Literal["dstack"]
    base_backends: list[str] | None = None
