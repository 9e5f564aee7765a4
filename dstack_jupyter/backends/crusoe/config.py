"""``type: crusoe``. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ..config.base import AccessKeyCreds, BackendConfig


class CrusoeConfig(BackendConfig):
    """``type: crusoe``. Newer than the backends page."""

    type: Literal["crusoe"]
    creds: AccessKeyCreds
    project_id: str

    def identity(self) -> str:
        return f"access key {self.creds.access_key}, project {self.project_id}"
