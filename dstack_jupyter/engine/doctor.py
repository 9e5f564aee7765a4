"""What `%dstack doctor` examines on the engine's side: is this installation sound, and if not, what to do."""

from __future__ import annotations

import asyncio
import shutil
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, text

from ..models.home import Home
from .store import migrate
from .store.database import Database

LITTLE_SPACE = 1 << 30


class HasMessage(Protocol):
    @property
    def message(self) -> str: ...


async def examine(database: Database, home: Home, problems: Sequence[HasMessage]) -> list[dict[str, Any]]:
    """``[{check, ok, message, hint}]``; every check has an entry, whether it passed or not."""
    return [
        _line("engine", True, f"answers, on Python {sys.version.split()[0]}"),
        await database.read(_store),
        *await asyncio.to_thread(_files, home),
        await asyncio.to_thread(_space, home),
        _work(problems),
        *await asyncio.to_thread(_dstack_config),
    ]


def _line(check: str, ok: bool, message: str, hint: str = "") -> dict[str, Any]:
    return {"check": check, "ok": ok, "message": message, "hint": "" if ok else hint}


def _store(connection: Connection) -> dict[str, Any]:
    sqlite = connection.dialect.name == "sqlite"
    found = connection.execute(text("PRAGMA quick_check(1)")).scalar() if sqlite else "ok"
    revision = migrate.current(connection)
    return _line(
        "store",
        found == "ok" and revision == migrate.HEAD,
        f"integrity {found}, schema {revision}",
        "copy store.db aside and report this",
    )


def _files(home: Home) -> list[dict[str, Any]]:
    lines = []
    for path, wanted in ((home.root, 0o700), (home.store, 0o600), (home.endpoint, 0o600)):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except FileNotFoundError:
            continue
        open_to_others = bool(mode & 0o077)
        message = f"{path.name} has mode {mode:04o}" + (": others can read it" if open_to_others else "")
        lines.append(_line("permissions", not open_to_others, message, f"chmod {wanted:o} {path}"))
    return lines


def _space(home: Home) -> dict[str, Any]:
    free = shutil.disk_usage(home.root).free
    return _line("disk", free > LITTLE_SPACE, f"{free / 2**30:.1f} GB free for runs, logs and code", "free some space")


def _work(problems: Sequence[HasMessage]) -> dict[str, Any]:
    if not problems:
        return _line("work", True, "nothing is stuck")
    return _line("work", False, "; ".join(sorted({p.message for p in problems})), "see `%dstack events` and engine.log")


def _dstack_config() -> list[dict[str, Any]]:
    config = Path.home() / ".dstack" / "server" / "config.yml"
    try:
        mode = stat.S_IMODE(config.stat().st_mode)
    except OSError:
        return []
    return [
        _line(
            "config.yml",
            not mode & 0o077,
            f"mode {mode:04o}: it holds keys in clear text",
            f"chmod 600 {config}, or `%dstack doctor --fix`",
        )
    ]
