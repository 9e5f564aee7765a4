"""``type: runpod``. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ..config.base import APIKeyCreds, BackendConfig


class RunPodConfig(BackendConfig):
    """``type: runpod``. ``community_cloud`` is true where nothing is said, as in the seed era."""

    type: Literal["runpod"]
    creds: APIKeyCreds
    community_cloud: bool | None = None

    def notes(self) -> list[str]:
        asked = self.community_cloud is not None
        return [] if asked else ["community_cloud is true, as in dstack 0.19; newer releases take false: say which you mean"]
