"""``type: local``: this machine. It needs no entry; the seed era's config.yml may have one."""

from __future__ import annotations

from typing import Literal

from ..config.base import BackendConfig


class LocalConfig(BackendConfig):
    """``type: local``."""

    type: Literal["local"]
