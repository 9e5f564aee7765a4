"""The engine: store, reconcilers and service of one state folder, on one loop.

The host (``host.py``) takes the lock of the home first. The store holds all state; stopping the engine stops nothing else.
Where engines share a store, each acts for what it has leased, and hears from the others by the relay.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

from ..machines.base import JobSpec
from ..models.errors import LostLease
from ..models.home import Home, write_private
from ..models.offers import UNAVAILABLE
from ..models.states import Reason
from .jobs.archives import Archives
from .jobs.forwards import Forwards
from .jobs.machines import Machines
from .jobs.nodes import Siblings
from .jobs.spec import JobMaker
from .keys.keyring import key_store
from .keys.ssh_keys import Keys
from .keys.vault import Vault
from .provisioning.offers import Provisioning
from .provisioning.orders import Maker
from .provisioning.vendor_calls import Vendors
from .reconcilers.attempt import AttemptReconciler
from .reconcilers.cloud_fleet import CloudFleetReconciler
from .reconcilers.fleet_parts import FleetParts
from .reconcilers.host import HostReconciler
from .reconcilers.housekeeping import Housekeeping
from .reconcilers.instance import InstanceReconciler
from .reconcilers.run import RunReconciler
from .reconcilers.run_fleet import FleetReconciler
from .reconcilers.sweep import Sweeps
from .reconcilers.watchdog import Watchdog, watched
from .runtime.bus import ALL, Bus
from .runtime.leases import FleetLeases, Leases, StoreLease
from .runtime.location import place_of
from .runtime.problems import Problems
from .runtime.queue import Key, Next, WorkQueue
from .runtime.relay import Relay
from .service.cleanup import Cleanup
from .service.fleets import FleetService
from .service.parts import Parts
from .service.runs import Service
from .store import accounts, bookings, location, runs, sealed, work
from .store.database import Database
from .store.fence import acting
from .store.rows import AttemptRow, InstanceRow, RunRow
from .store.schema import sealed_values

log = logging.getLogger(__name__)

OFFERS = Key("offers", "")
"""What an engine tells its home of hosts."""
OWN = (OFFERS.kind, "sweep")
"""Kinds of keys that every engine handles for itself, without a lease."""


class Engine:
    """Made by a host; ``start``, ``stop`` and, between them, ``service`` are for the engine's loop, ``unfinished`` for any.

    ``lost`` is called, once or more, when another engine has this home's store: nothing can be changed any more. ``machines``
    makes what reaches the machines behind instance rows.
    """

    service: Service
    _leases: Leases
    _machines: Machines
    _forwards: Forwards

    def __init__(self, home: Home, lost: Callable[[], None] = lambda: None, machines: Callable[..., Machines] = Machines) -> None:
        self._make_machines = machines
        self.home = home
        self._lost_all = lost
        self._shared = location.shared(home)
        self._open: set[str] = set()
        self._told: set[Key] = set()
        self._vault = Vault(key_store(home))
        self._database = Database(self._shared or home.create().store, self._vault)
        self._bus = Bus()
        self._problems = Problems(self._database, self._bus)
        self._queue = WorkQueue(self._reconcile, failed=self._problems.failed)
        self._relay: Relay | None = None
        self._ending = AsyncExitStack()

    async def start(self) -> None:
        """Open the store and go on with what it holds: recovery is ordinary reconciliation.

        Raises StorageFull, StoreUnavailable, EngineError, ConfigurationError; ``stop`` is needed then too.
        """
        self._ending.push_async_callback(self._database.close)
        await self._database.open()
        keep = partial(self._database.write, sealed.keep, sealed_values)
        seed = bytes.fromhex(await keep("seed", sealed.run_seed))
        life = f"{self.home.installation()}-{secrets.token_hex(4)}"
        if self._shared is None:
            self._leases = StoreLease(self._database, life, self._taken, self._lost_all)
            self._assemble(self.home.installation(), Keys(self.home, seed), "")
        else:
            installation = await keep("installation", self.home.installation)
            here = place_of(self.home)
            self._relay = Relay(self._database, self._shared, life, self._heard, self._blind)
            self._ending.push_async_callback(self._relay.stop)
            self._bus.tell = lambda key: self._tell(f"run {key}")
            self._leases = FleetLeases(self._database, life, here, self._taken, self._dropped, freed=lambda: self._tell("free"))
            self._assemble(installation, Keys(self.home, seed, shared=True), here)
            await self._relay.start()
        self._ending.push_async_callback(self._leases.stop)
        self._ending.push_async_callback(self._machines.close)
        self._ending.callback(self._forwards.close_all)
        self._ending.push_async_callback(self._queue.close)
        self._ending.callback(self._problems.close)
        await self._leases.start()
        for each in await self._database.read(work.just_ended):
            self._queue.add(Key(each.kind, each.id))
        for account in await self._database.read(accounts.marks):
            self._queue.add(Key("sweep", account))
        keeping = asyncio.get_running_loop().create_task(self._housekeeping.run(), name="housekeeping")
        self._ending.callback(keeping.cancel)

    def _assemble(self, installation: str, keys: Keys, here: str) -> None:
        """Make the parts; ``here`` is the place of this engine where others share its store."""
        self._machines = self._make_machines(self.home, self._database, keys, installation, here)
        self._forwards = Forwards(self.home, keys)
        kill_requests: dict[str, tuple[Reason, str]] = {}
        provisioning = Provisioning(lambda: self._database.read(bookings.offers))
        vendors = Vendors(installation)
        self._ending.callback(vendors.close)
        sweeps = Sweeps(self._database, self._bus, vendors, installation, self._queue.add)
        self._archives = Archives(self._database, self.home)
        self._maker = JobMaker(self._archives.path, keys)
        wake = self._queue.add
        self._attempts = AttemptReconciler(
            self._database,
            self._bus,
            machine=self._machines.of,
            spec=self._spec,
            wake=wake,
            kill_requests=kill_requests,
            running=self._runs,
            ended=self._attempt_ended,
        )
        of_fleets = FleetParts(
            self._database, self._bus, provisioning, installation, wake, closed=self._closed, hosts_changed=self._hosts_changed
        )
        fleets = FleetReconciler(of_fleets, CloudFleetReconciler(of_fleets).reconcile, here)
        self._reconcilers: dict[str, Callable[[Key], Awaitable[Next]]] = {
            "attempt": self._attempts.reconcile,
            "fleet": fleets.reconcile,
            "host": HostReconciler(
                self._database,
                self._bus,
                machine=self._machines.host,
                leave=self._machines.leave,
                changed=self._hosts_changed,
                closed=self._closed,
            ).reconcile,
            "instance": InstanceReconciler(
                self._database, self._bus, vendors, self._machines, Maker(keys, installation), wake
            ).reconcile,
            "run": RunReconciler(self._database, self._bus, wake).reconcile,
            "guard": Watchdog(self._database, self._machines.of, self._forwards, kill_requests, wake).reconcile,
            "offers": self._write_offers,
            "sweep": sweeps.reconcile,
        }
        self._housekeeping = Housekeeping(self._database, self._machines, self.home)
        owner = self._leases.owner
        parts = Parts(
            self._database,
            self._bus,
            provisioning,
            self.home,
            machine=self._machines.of,
            submitted=self._submitted,
            owner=owner,
            acts_for=self._leases.acts_for,
            archives=self._archives,
            wake=wake,
            backlog=partial(self._queue.waiting, "fleet", "instance"),
            problems=self._problems,
            forwards=self._forwards,
            fleets=FleetService(of_fleets, self.home, self._machines.leave, owner, self._applied),
            cleanup=Cleanup(self._database, sweeps, self._bus, wake),
            vault=self._vault,
        )
        self.service = Service(parts)

    async def stop(self) -> None:
        """Stop looking; jobs, machines and the store's contents stay as they are. Leases that others can use are given back."""
        await self._ending.aclose()

    def unfinished(self) -> int:
        """Fleets that are not closed and that we act for: runs that go on, and machines that still have to go."""
        return len(self._open)

    def _submitted(self, run_id: str, fleet_id: str, attempt_ids: Sequence[str]) -> None:
        keys = [Key("run", run_id), *(Key(kind, each) for each in attempt_ids for kind in ("attempt", "guard"))]
        self._leases.born(fleet_id, keys)
        self._open.add(fleet_id)
        self._queue.add(Key("fleet", fleet_id))

    def _applied(self, fleet_id: str, keys: Sequence[Key]) -> None:
        """A user applied a new fleet. A fleet of cloud instances needs an engine until its end."""
        self._leases.born(fleet_id, keys)
        if Key("fleet", fleet_id) in keys:
            self._open.add(fleet_id)

    def _taken(self, todo: Sequence[work.Work]) -> None:
        """We act for these from now on."""
        for each in todo:
            if each.kind == "fleet":
                self._open.add(each.id)
            self._queue.add(Key(each.kind, each.id))
        self._problems.recall([each.id for each in todo if each.kind == "attempt"], self._queue.add)

    def _dropped(self, fleet_id: str, keys: Sequence[Key]) -> None:
        """Another engine acts for a fleet now: nothing of it is looked at or held open here."""
        self._open.discard(fleet_id)
        for key in keys:
            self._queue.drop(key)
            self._problems.drop(key)
            if key.kind == "attempt":
                self._attempts.forget(key.id)
                self._forwards.close(key.id)

    def _closed(self, fleet_id: str) -> None:
        self._open.discard(fleet_id)
        self._leases.closed(fleet_id)

    def _tell(self, line: str) -> None:
        if self._relay is not None:
            self._relay.tell(line)

    def _heard(self, line: str) -> None:
        """What another engine says: ``run ID``, ``key KIND ID``, ``free``, ``hosts``."""
        match line.split(" "):
            case ["run", run_id]:
                self._bus.hear(run_id)
            case ["key", kind, id] if kind in self._reconcilers:
                key = Key(kind, id)
                self._told.add(key)
                self._queue.add(key)
            case ["free"]:
                self._leases.look()
            case ["hosts"]:
                self._queue.add(OFFERS)

    def _blind(self) -> None:
        """Look everywhere that somebody waits: wakes of other engines may be lost, or the database was away."""
        self._bus.hear(ALL)
        self._leases.look()
        for key in self._problems:
            self._queue.add(key)

    async def _reconcile(self, key: Key) -> Next:
        """Call a reconciler under the fence of its key. A key of another engine is passed on, not handled."""
        if key.kind in OWN:
            after = await self._reconcilers[key.kind](key)
            await self._problems.clear(key)
            return after
        fence = await self._leases.of(key)
        if fence is None:
            if key not in self._told:
                self._tell(f"key {key.kind} {key.id}")
            self._told.discard(key)
            return Next()
        self._told.discard(key)
        token = acting.set(fence)
        try:
            after = await self._reconcilers[key.kind](key)
            await self._problems.clear(key)
        except LostLease:
            self._leases.lose(fence)
            return Next()
        except Exception as error:
            await self._problems.keep(key, error)
            raise
        finally:
            acting.reset(token)
        return after

    async def _spec(
        self, attempt: AttemptRow, run: RunRow, instance: InstanceRow, siblings: Siblings, blocks: list[int]
    ) -> JobSpec:
        await self._archives.fetch(ref["sha256"] for ref in run.code)
        return self._maker.spec(attempt, run, instance, siblings, blocks)

    async def _runs(self, attempt: AttemptRow, run: RunRow, instance: InstanceRow) -> bool:
        """A job is seen running: open its forwards, begin its guards. False: not all is open yet."""
        if watched(run.configuration.task):
            self._queue.add(Key("guard", attempt.id))
        return await self._forwards.ensure(attempt, run, instance, self._machines.of(instance))

    def _attempt_ended(self, attempt_id: str) -> None:
        self._forwards.close(attempt_id)
        self._hosts_changed()

    def _hosts_changed(self) -> None:
        """Hosts were booked, freed, found or lost."""
        self._queue.add(OFFERS)
        self._tell("hosts")

    async def _write_offers(self, _: Key) -> Next:
        """Tell `%dstack offers`, which needs no engine, and the runs that wait for a machine."""
        rows = await self._database.read(bookings.offers)
        own = [row for row in rows if row["origin"] == "host"]
        await asyncio.to_thread(write_private, self.home.cache / "hosts.json", json.dumps(own).encode())
        if any(row["availability"] not in UNAVAILABLE for row in rows):
            for run_id in await self._database.write(runs.for_capacity):
                self._queue.add(Key("run", run_id))
        return Next(rest=0.05)
