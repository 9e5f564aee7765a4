"""The sweeps compare what each account that was ever used holds under our names with the rows (R10, R11).

A look lists the cloud first, then reads the rows: a machine made in between is not in the list and never seems an orphan.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection

from ...backends.base import Cloud, CloudResource
from ...models.errors import BackendError, BackendNotAvailable, ConfigurationError, NotFound, RateLimited
from ..provisioning.vendor_calls import Vendors
from ..runtime.bus import Bus
from ..runtime.queue import Key, Next
from ..steps import sweep as steps
from ..store import accounts, cloud_instances
from ..store.database import Database
from ..store.rows import AccountRow

log = logging.getLogger(__name__)

EVERY = 600.0
"""Seconds between two sweeps of an account with cloud instances, with orphans, or with a create within ``SELDOM``: a machine may
come late."""
SELDOM = 3600.0
"""The same for an account without any of these."""
SOON = 180.0
"""The same while there are orphans that the sweeps must end."""
FRESH = 60.0
"""Seconds. A starting engine sweeps at once, unless another swept within this time. A new account waits as long."""
CLAIM = 300.0
"""Seconds after which an unfinished sweep no longer keeps other engines from sweeping."""
TROUBLE = (30.0, 60.0, 120.0, 300.0, EVERY)
"""Seconds until the engine asks an account again that could not be asked; the last number repeats."""


@dataclass(frozen=True, slots=True)
class Look:
    """A complete look at an account."""

    account: AccountRow
    cloud: Cloud
    known: accounts.Known
    machines: steps.Machines
    resources: steps.Things
    gate: float


class Sweeps:
    """Handles the ``sweep`` keys of the work queue, one an account, on the engine's loop. Every engine has all keys;
    the engine that claims an account sweeps it. A late sweep stays right: ended rows stay ended."""

    def __init__(self, database: Database, bus: Bus, vendors: Vendors, installation: str, wake: Callable[[Key], None]) -> None:
        self._database = database
        self._bus = bus
        self._vendors = vendors
        self._installation = installation
        self._wake = wake
        self._begun: set[str] = set()
        self._troubles: dict[str, int] = {}

    async def reconcile(self, key: Key) -> Next:
        """Sweep the account if its time has come; return when the next sweep is due."""
        state = await self._database.read(accounts.state, key.id)
        if state is None:
            return Next()
        every = interval(state)
        wait = (every if key.id in self._begun else FRESH) - state.since
        if wait > 0:
            if state.account.swept_at is not None:
                self._begun.add(key.id)
            # At least a second: a clock that is behind must not make the loop spin.
            return Next(guard=max(1.0, wait))
        if not await self._database.write(accounts.claim, key.id, state.account.swept_at, CLAIM):
            return Next(guard=FRESH)
        self._begun.add(key.id)
        try:
            await self._sweep(state.account)
        except BackendError as error:
            return await self._trouble(key.id, error)
        self._troubles.pop(key.id, None)
        after = await self._database.read(accounts.state, key.id)
        return Next(guard=SELDOM if after is None else interval(after))

    async def _trouble(self, account_id: str, error: BackendError) -> Next:
        """A failed list allows no conclusion (R12)."""
        times = self._troubles[account_id] = self._troubles.get(account_id, 0) + 1
        await self._database.write(accounts.failed, account_id, error.text)
        if isinstance(error, BackendNotAvailable):
            return Next(guard=SELDOM)
        wait = max(1.0, error.delay) if isinstance(error, RateLimited) else TROUBLE[min(times, len(TROUBLE)) - 1]
        return Next(rest=wait, guard=wait)

    async def _sweep(self, account: AccountRow) -> None:
        look = await self.look(account, swept=True)
        for instance_id in look.machines.wake:
            self._wake(Key("instance", instance_id))
        for orphan in look.machines.orphans:
            if orphan.ours_to_end:
                await self._end(look, orphan)
        for row, resource in look.resources.detach:
            await self._detach(look, row, resource)

    async def look(self, account: AccountRow, *, swept: bool = False) -> Look:
        """List an account, read the rows, store the orphans. ``swept``: this look counts as the claimed sweep.

        Raises BackendError if any list failed: then nothing was changed.
        """
        cloud = await self._cloud(account)
        listed = await self._vendors.call(cloud.account_id, cloud.list_all, self._installation)
        there = await self._vendors.call(cloud.account_id, cloud.list_attached, self._installation)
        known = await self._database.read(accounts.known, account, [each.identity for each in listed], there)
        gate = steps.gate(cloud.traits)
        machines = steps.machines(listed, known.owners, known.first_seen(), known.now, gate)
        resources = steps.resources(there, known.resources, gate)
        for orphan in machines.orphans:
            if ("instance", orphan.key) not in known.orphans:
                log.warning("%s %s: a machine that nobody needs (%s)", account.backend, orphan.machine.identity, orphan.verdict)
        await self._database.write(accounts.store, account.account_id, machines.orphans, resources.orphans, swept)
        self._bus.publish_events()
        return Look(account, cloud, known, machines, resources, gate)

    async def _cloud(self, account: AccountRow) -> Cloud:
        """Raises BackendNotAvailable where the project has no such account any more."""
        try:
            cloud = self._vendors.cloud(account.backend, account.project)
        except (ConfigurationError, NotFound) as error:
            raise BackendNotAvailable(error.message, hint=error.hint) from None
        if cloud.account_id == account.account_id:
            return cloud

        def store(connection: Connection) -> None:
            accounts.used(connection, cloud.account_id, account.backend, account.project)

        # Most likely the same account has a new key: then the new key sees everything.
        await self._database.write(store)
        self._wake(Key("sweep", cloud.account_id))
        raise BackendNotAvailable(
            f"{account.backend} of project {account.project} has another key or address by now",
            hint="if that is another account, look at the former one in the vendor's console",
        )

    async def _end(self, look: Look, orphan: steps.Orphan) -> None:
        """End a machine whose row has ended, or a second machine of a name, until the vendor's list no longer has it."""
        why = "it was there after its end" if orphan.verdict == "ended" else "a second machine of this name"
        try:
            await self.end(look, orphan, "engine", why)
        except BackendError as error:
            log.info("%s: %s", orphan.machine.identity, error.message)

    async def end(self, look: Look, orphan: steps.Orphan, actor: str, why: str) -> None:
        """Ask the vendor once. Raises BackendError."""
        machine = orphan.machine
        log.warning("%s %s is ended: %s", look.account.backend, machine.identity, why)
        if await self._vendors.call(look.cloud.account_id, look.cloud.terminate, machine.data, ends=True):
            where = ("instance", orphan.key, machine.identity)
            await self._database.write(accounts.delete_accepted, look.account, *where, actor, why)
            self._bus.publish_events()

    async def detach(self, look: Look, resource: CloudResource, actor: str) -> None:
        """Remove a cloud resource that nobody needs. Raises BackendError."""
        await self._vendors.call(look.cloud.account_id, look.cloud.detach, resource, ends=True)
        where = (resource.kind, steps.key_of(resource.id), resource.identity)
        await self._database.write(accounts.delete_accepted, look.account, *where, actor, "no machine needs it")
        self._bus.publish_events()

    async def _detach(self, look: Look, row: steps.Row, resource: CloudResource | None) -> None:
        try:
            if resource is not None and row.ours:
                await self._vendors.call(look.cloud.account_id, look.cloud.detach, resource, ends=True)
        except BackendError as error:
            log.info("%s %s: %s", row.kind, row.identity, error.message)
            return
        await self._database.write(cloud_instances.detached, row.account, row.kind, row.identity)


def interval(state: accounts.State) -> float:
    """Seconds from one sweep of an account to the next."""
    if state.ours_to_end:
        return SOON
    late = state.asked is not None and state.asked < SELDOM
    return EVERY if state.renting or state.orphans or late else SELDOM
