"""``type: digitalocean``. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ..config.base import APIKeyCreds, BackendConfig


class DigitalOceanConfig(BackendConfig):
    """``type: digitalocean``. Without ``project_name`` the account's default project is used."""

    type: Literal["digitalocean"]
    creds: APIKeyCreds
    project_name: str | None = None

    def identity(self) -> str:
        return f"project {self.project_name}" if self.project_name else "the default project"
