"""Removes job folders and uploaded code of runs that ended more than seven days ago.

Logs and results of `pull` live until then; the store keeps rows and logs.
"""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy import Connection, select, update

from ...models.errors import Unreachable
from ...models.home import Home
from ...models.states import InstanceState
from ..jobs import archives
from ..jobs.machines import Machines
from ..store import moves
from ..store.columns import now
from ..store.database import Database
from ..store.schema import attempts, instances, runs

log = logging.getLogger(__name__)

KEEP = 7 * 24 * 3600.0
EVERY = 6 * 3600.0


class Housekeeping:
    def __init__(self, database: Database, machines: Machines, home: Home) -> None:
        self._database = database
        self._machines = machines
        self._home = home

    async def run(self) -> None:
        """Run until cancelled. A fault is logged and the round tried again: housekeeping must not disturb the engine's work."""
        while True:
            try:
                await self.sweep()
            except Exception:
                log.exception("housekeeping")
            await asyncio.sleep(EVERY)

    async def sweep(self) -> None:
        """One round removes folders of ended runs of this store. Folders that the store does not know stay."""
        ended, needed = await self._database.read(_expired)
        on_disk = {entry.name for entry in self._home.jobs.iterdir()}
        for attempt_id in ended & on_disk:
            await self._machines.local.remove(attempt_id)
        for attempt_id in await self._database.read(_expired_on_hosts):
            await self._remove_from_host(attempt_id)
        if self._database.shared:
            await self._database.write(archives.forget, sorted(needed), KEEP)
        for archive in self._home.code.glob("*.tar"):
            age = await self._database.read(_age, archive.stat().st_mtime)
            if archive.stem not in needed and age > KEEP:
                archive.unlink(missing_ok=True)

    async def _remove_from_host(self, attempt_id: str) -> None:
        """A host that does not answer keeps its folders until the next round."""
        _, _, instance = await self._database.read(moves.load_attempt, attempt_id)
        try:
            if instance is not None and instance.state != InstanceState.TERMINATED:
                await self._machines.of(instance).remove(attempt_id)
        except Unreachable as error:
            log.info("job folder %s: %s", attempt_id, error.message)
            return
        await self._database.write(_forget_host, attempt_id)


def _expired_on_hosts(connection: Connection) -> list[str]:
    """Ended attempts whose folder on a host may be removed."""
    query = (
        select(attempts.c.id)
        .join(instances, instances.c.id == attempts.c.instance_id)
        .where(instances.c.backend == "ssh", attempts.c.finished_at < now() - KEEP)
    )
    return list(connection.execute(query).scalars())


def _forget_host(connection: Connection, attempt_id: str) -> None:
    connection.execute(update(attempts).where(attempts.c.id == attempt_id).values(instance_id=None))


def _expired(connection: Connection) -> tuple[set[str], set[str]]:
    """(attempts whose folder may be removed, sha256 of archives that a younger or unfinished run still needs)."""
    ended = connection.execute(select(attempts.c.id).where(attempts.c.finished_at < now() - KEEP)).scalars()
    young = connection.execute(
        select(runs.c.code).where(runs.c.finished_at.is_(None) | (runs.c.finished_at >= now() - KEEP))
    ).scalars()
    return set(ended), {ref["sha256"] for code in young for ref in code}


def _age(connection: Connection, moment: float) -> float:
    return connection.execute(select(now() - moment)).scalar_one()
