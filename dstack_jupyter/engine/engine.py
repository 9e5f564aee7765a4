"""The engine: store, reconcilers and service of one state folder, on one loop.

Whoever hosts it (``host.py``) holds the lease of the home first. Everything it knows is in the store; stopping it stops
nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Row

from ..machines.base import Machine
from ..machines.local import LocalMachine
from ..models.errors import DstackJupyterError, StorageFull
from ..models.home import Home
from .attempts import AttemptReconciler
from .bus import Bus
from .fleets import FleetReconciler
from .housekeeping import Housekeeping
from .jobs import job_spec
from .provisioning import Provisioning
from .queue import Key, Next, WorkQueue
from .service import Problem, Service
from .store import moves, runs
from .store.database import Database

log = logging.getLogger(__name__)


class Engine:
    """Made by a host; ``start``, ``stop`` and ``service`` are for the engine's loop, ``unfinished`` for any thread."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._open: set[str] = set()
        self._problems: dict[Key, Problem] = {}
        self._database = Database(home.create().store)
        self._bus = Bus()
        self._local = LocalMachine(home.jobs)
        self._queue = WorkQueue(self._reconcile, failed=self._note_problem)
        provisioning = Provisioning(home)
        self._attempts = AttemptReconciler(
            self._database,
            self._bus,
            machine=self._machine,
            spec=lambda attempt, run, instance: job_spec(self._code_path, attempt, run, instance),
            wake=self._queue.add,
        )
        self._fleets = FleetReconciler(
            self._database, self._bus, provisioning, home.installation(), self._queue.add, self._open.discard
        )
        self._housekeeping = Housekeeping(self._database, self._local, home)
        self.service = Service(
            self._database,
            self._bus,
            provisioning,
            home,
            machine=self._machine,
            submitted=self._submitted,
            wake=self._queue.add,
            problems=self._problems,
        )
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the store and go on with what it holds: recovery is ordinary reconciliation. Raises StorageFull, EngineError."""
        await self._database.open()
        for fleet_id in await self._database.read(moves.open_fleets):
            self._submitted(fleet_id)
        for attempt_id, _ in await self._database.read(runs.unfinished):
            self._queue.add(Key("attempt", attempt_id))
        self._keeping = asyncio.get_running_loop().create_task(self._housekeeping.run(), name="housekeeping")

    async def stop(self) -> None:
        """Stop looking; jobs, machines and the store's contents stay as they are."""
        if self._keeping is not None:
            self._keeping.cancel()
        await self._queue.close()
        await self._local.close()
        await self._database.close()

    def unfinished(self) -> int:
        """Fleets that are not closed: runs that go on, and machines that still have to go."""
        return len(self._open)

    def _submitted(self, fleet_id: str) -> None:
        self._open.add(fleet_id)
        self._queue.add(Key("fleet", fleet_id))

    async def _reconcile(self, key: Key) -> Next:
        found = await (self._attempts if key.kind == "attempt" else self._fleets).reconcile(key)
        if self._problems.pop(key, None) is not None:
            self._bus.publish_all()
        return found

    def _note_problem(self, key: Key, error: Exception) -> None:
        message = error.message if isinstance(error, DstackJupyterError) else f"{type(error).__name__}: {error}"
        since = self._problems[key].since if key in self._problems else time.time()
        self._problems[key] = Problem(since, message, isinstance(error, StorageFull))
        self._bus.publish_all()

    def _machine(self, instance: Row[Any]) -> Machine:
        """The machine behind an instance row. So far every machine is this one."""
        return self._local

    def _code_path(self, sha256: str) -> Path:
        return self.home.code / f"{sha256}.tar"
