"""``type: cudo``. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ..config.base import APIKeyCreds, BackendConfig


class CUDOConfig(BackendConfig):
    """``type: cudo``."""

    type: Literal["cudo"]
    creds: APIKeyCreds
    project_id: str

    def identity(self) -> str:
        return f"project {self.project_id}"
