"""Lets go of what nobody needs: job folders and uploaded code of runs that ended more than seven days ago.

Logs and results of `pull` live until then; the store keeps rows and logs.
"""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy import Connection, select

from ..machines.base import Machine
from ..models.home import Home
from .store.database import Database
from .store.schema import attempts, now, runs

log = logging.getLogger(__name__)

KEEP = 7 * 24 * 3600.0
EVERY = 6 * 3600.0


class Housekeeping:
    def __init__(self, database: Database, local: Machine, home: Home) -> None:
        self._database = database
        self._local = local
        self._home = home

    async def run(self) -> None:
        """Until cancelled. A fault here is logged and tried again: it must not touch the engine's work."""
        while True:
            try:
                await self.sweep()
            except Exception:
                log.exception("housekeeping")
            await asyncio.sleep(EVERY)

    async def sweep(self) -> None:
        """One round. Only what belongs to an ended run of this store goes; folders that the store does not know stay."""
        ended, needed = await self._database.read(_expired)
        on_disk = {entry.name for entry in self._home.jobs.iterdir()}
        for attempt_id in ended & on_disk:
            await self._local.remove(attempt_id)
        for archive in self._home.code.glob("*.tar"):
            age = await self._database.read(_age, archive.stat().st_mtime)
            if archive.stem not in needed and age > KEEP:
                archive.unlink(missing_ok=True)


def _expired(connection: Connection) -> tuple[set[str], set[str]]:
    """(attempts whose folder may go, sha256 of archives that a younger or unfinished run still needs)."""
    ended = connection.execute(select(attempts.c.id).where(attempts.c.finished_at < now() - KEEP)).scalars()
    young = connection.execute(
        select(runs.c.code).where(runs.c.finished_at.is_(None) | (runs.c.finished_at >= now() - KEEP))
    ).scalars()
    return set(ended), {ref["sha256"] for code in young for ref in code}


def _age(connection: Connection, moment: float) -> float:
    return connection.execute(select(now() - moment)).scalar_one()
