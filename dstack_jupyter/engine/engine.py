"""The engine: store, reconcilers and service of one state folder, on one loop.

Whoever hosts it (``host.py``) holds the lease of the home first. Everything it knows is in the store; stopping it stops
nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Row

from ..models.configurations import run_configuration
from ..models.errors import DstackJupyterError, StorageFull, Unreachable
from ..models.home import Home, write_private
from ..models.runs import ConditionType
from ..models.states import Reason
from .attempts import AttemptReconciler
from .bus import Bus
from .fleet_service import FleetService
from .fleets import FleetReconciler
from .forwards import Forwards
from .hosts import HostReconciler
from .housekeeping import Housekeeping
from .jobs import JobMaker
from .keys import Keys
from .machines import Machines
from .pending import RunReconciler
from .provisioning import Provisioning
from .queue import Key, Next, WorkQueue
from .service import Problem, Service
from .store import hosts, location, moves, runs
from .store.database import Database
from .watchdog import Watchdog, watched

log = logging.getLogger(__name__)


class Engine:
    """Made by a host; ``start``, ``stop`` and ``service`` are for the engine's loop, ``unfinished`` for any thread.

    ``machines`` makes what reaches the machines behind instance rows.
    """

    def __init__(self, home: Home, machines: Callable[[Home, Database, Keys, str], Machines] = Machines) -> None:
        self.home = home
        self._open: set[str] = set()
        self._problems: dict[Key, Problem] = {}
        self._database = Database(location.shared(home) or home.create().store)
        self._bus = Bus()
        installation = home.installation()
        keys = Keys(home)
        self._machines = machines(home, self._database, keys, installation)
        self._forwards = Forwards(home, keys)
        self._queue = WorkQueue(self._reconcile, failed=self._note_problem)
        self._passwords: dict[str, str] = {}
        condemned: dict[str, tuple[Reason, str]] = {}
        provisioning = Provisioning(lambda: self._database.read(hosts.offers))
        maker = JobMaker(self._code_path, keys, lambda run_id: self._passwords.get(run_id, ""))
        wake = self._queue.add
        self._reconcilers: dict[str, Callable[[Key], Awaitable[Next]]] = {
            "attempt": AttemptReconciler(
                self._database,
                self._bus,
                machine=self._machines.of,
                spec=maker.spec,
                wake=wake,
                condemned=condemned,
                running=self._runs,
                ended=self._attempt_ended,
            ).reconcile,
            "fleet": FleetReconciler(
                self._database, self._bus, provisioning, installation, wake, self._open.discard, self._hosts_changed
            ).reconcile,
            "host": HostReconciler(
                self._database,
                self._bus,
                machine=self._machines.host,
                forget=self._machines.forget,
                changed=self._hosts_changed,
                closed=self._open.discard,
            ).reconcile,
            "run": RunReconciler(self._database, self._bus, wake).reconcile,
            "guard": Watchdog(self._database, self._machines.of, self._forwards, condemned, wake).reconcile,
            "offers": self._write_offers,
        }
        self._housekeeping = Housekeeping(self._database, self._machines, home)
        self.service = Service(
            self._database,
            self._bus,
            provisioning,
            home,
            machine=self._machines.of,
            submitted=self._submitted,
            wake=wake,
            problems=self._problems,
            passwords=self._passwords,
            forwards=self._forwards,
            fleets=FleetService(self._database, self._bus, installation, wake, self._machines.forget),
        )
        self._keeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the store and go on with what it holds: recovery is ordinary reconciliation. Raises StorageFull, EngineError."""
        await self._database.open()
        for fleet_id in await self._database.read(moves.open_fleets):
            self._submitted(fleet_id)
        for attempt_id, _ in await self._database.read(runs.unfinished):
            self._queue.add(Key("attempt", attempt_id))
        for kind, find in (("host", hosts.open_hosts), ("run", runs.waiting), ("attempt", runs.just_ended)):
            for each in await self._database.read(find):
                self._queue.add(Key(kind, each))
        self._keeping = asyncio.get_running_loop().create_task(self._housekeeping.run(), name="housekeeping")

    async def stop(self) -> None:
        """Stop looking; jobs, machines and the store's contents stay as they are."""
        if self._keeping is not None:
            self._keeping.cancel()
        await self._queue.close()
        self._forwards.close_all()
        await self._machines.close()
        await self._database.close()

    def unfinished(self) -> int:
        """Fleets that are not closed: runs that go on, and machines that still have to go."""
        return len(self._open)

    def _submitted(self, fleet_id: str) -> None:
        self._open.add(fleet_id)
        self._queue.add(Key("fleet", fleet_id))

    async def _reconcile(self, key: Key) -> Next:
        found = await self._reconcilers[key.kind](key)
        if self._problems.pop(key, None) is not None:
            self._bus.publish_all()
        return found

    def _note_problem(self, key: Key, error: Exception) -> None:
        message = error.message if isinstance(error, DstackJupyterError) else f"{type(error).__name__}: {error}"
        since = self._problems[key].since if key in self._problems else time.time()
        kind: ConditionType = "stuck"
        if isinstance(error, StorageFull):
            kind = "storage"
        elif isinstance(error, Unreachable):
            kind = "unreachable"
        self._problems[key] = Problem(since, message, kind)
        self._bus.publish_all()

    async def _runs(self, attempt: Row[Any], run: Row[Any], instance: Row[Any]) -> bool:
        """A job is seen running: what it offers is opened, what guards it begins. False: not all is open yet."""
        self._passwords.pop(run.id, None)
        if watched(run_configuration(run.configuration)):
            self._queue.add(Key("guard", attempt.id))
        return await self._forwards.ensure(attempt, run, instance, self._machines.of(instance))

    def _attempt_ended(self, attempt_id: str) -> None:
        self._forwards.close(attempt_id)
        self._hosts_changed()

    def _hosts_changed(self) -> None:
        """Hosts were booked, freed, found or lost."""
        self._queue.add(Key("offers", ""))

    async def _write_offers(self, _: Key) -> Next:
        """Tell `%dstack offers`, which needs no engine, and the runs that wait for a machine."""
        rows = await self._database.read(hosts.offers)
        await asyncio.to_thread(write_private, self.home.cache / "hosts.json", json.dumps(rows).encode())
        if any(row["availability"] == "idle" for row in rows):
            for run_id in await self._database.write(runs.for_capacity):
                self._queue.add(Key("run", run_id))
        return Next(rest=0.05)

    def _code_path(self, sha256: str) -> Path:
        return self.home.code / f"{sha256}.tar"
