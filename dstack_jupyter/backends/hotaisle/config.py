"""``type: hotaisle``. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ..config.base import APIKeyCreds, BackendConfig


class HotAisleConfig(BackendConfig):
    """``type: hotaisle``."""

    type: Literal["hotaisle"]
    creds: APIKeyCreds
    team_handle: str
    bare_metal: bool = False

    def identity(self) -> str:
        return f"team {self.team_handle}"
