"""``type: jarvislabs``. Facts: reference ``configuration`` §2.2."""

from __future__ import annotations

from typing import Literal

from ..config.base import APIKeyCreds, BackendConfig


class JarvisLabsConfig(BackendConfig):
    """``type: jarvislabs``. Newer than the backends page."""

    type: Literal["jarvislabs"]
    creds: APIKeyCreds
