"""What ``%dstack doctor`` finds, on both sides of the socket."""

from __future__ import annotations

from typing import Any

Finding = dict[str, Any]
"""``{check, ok, message, hint}``. ``ok`` is None for what could not be asked; a hint says how to mend what is wrong."""


def finding(check: str, ok: bool | None, message: str, hint: str = "") -> Finding:
    return {"check": check, "ok": ok, "message": message, "hint": "" if ok else hint}
