"""``type: amddevcloud``. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ..config.base import APIKeyCreds, BackendConfig


class AMDDevCloudConfig(BackendConfig):
    """``type: amddevcloud``. Without ``project_name`` the account's default project is used."""

    type: Literal["amddevcloud"]
    creds: APIKeyCreds
    project_name: str | None = None

    def identity(self) -> str:
        return f"project {self.project_name}" if self.project_name else "the default project"
