"""Backends and their permissions as they cross the wire."""

from __future__ import annotations

from typing import Literal

from .base import WireModel


class BackendView(WireModel):
    """A backend as this user has it. ``price_age_days`` is None where there are no prices."""

    backend: str
    kind: Literal["vm", "container", "on-prem", "local", "marketplace"]
    configured: bool = False
    identity: str = ""
    """Who we are there, as far as the configuration itself tells; never a secret."""
    credentials: Literal["valid", "invalid", "unknown", "none needed"] = "unknown"
    permissions: str = "unknown"
    regions: list[str] = []
    last_error: str = ""
    price_source: str = ""
    price_age_days: float | None = None
    status: Literal["ready", "not configured", "in trouble", "not supported yet", "not available"] = "not supported yet"
    message: str = ""
    hint: str = ""


class PermissionView(WireModel):
    """One right at a backend. ``level``: without it nothing works, a feature fails, or something falls back visibly."""

    backend: str
    permission: str
    level: Literal["required", "feature", "improves"] = "required"
    purpose: str = ""
    status: Literal["granted", "missing", "not needed", "unknown"]
    hint: str = ""
    """What to add, or why it cannot be told."""
    on_the_page: bool = True
