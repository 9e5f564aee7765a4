"""What ``%dstack doctor`` finds, on both sides of the socket."""

from __future__ import annotations

from typing import Any

Finding = dict[str, Any]
"""``{check, ok, message, hint}``. ``ok`` is None for what could not be asked; a hint says how to mend what is wrong."""


def finding(check: str, ok: bool | None, message: str, hint: str = "") -> Finding:
    return {"check": check, "ok": ok, "message": message, "hint": "" if ok else hint}


def age(seconds: float) -> str:
    """How long ago, roughly: ``12 s``, ``5 min``, ``3 h``, ``9 days``."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
