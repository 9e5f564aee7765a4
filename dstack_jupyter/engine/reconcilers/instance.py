"""The instance reconciler: takes each rented machine from its intent to the vendor's word that it is gone.

One key an instance, so one act at a time for each. What is decided is in ``steps.instance``; here it is done and stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ...backends.base import Cloud, Instance, Order, Restarts, Thing
from ...models.errors import (
    BackendError,
    BackendNotAvailable,
    BackendUnreachable,
    BadCredentials,
    Busy,
    NoBalance,
    NotAtVendor,
    PermissionMissing,
    RateLimited,
    Refused,
    Unreachable,
)
from ...models.states import InstanceState
from ..jobs.machines import Machines
from ..provisioning.orders import Maker
from ..provisioning.vendor_calls import Vendors
from ..runtime.bus import Bus
from ..runtime.queue import Key, Next, aside
from ..steps import instance as steps
from ..store import rented
from ..store.database import Database
from ..store.rented import Rent
from .first_contact import FirstBootFailed, Meeting, NotYet
from .timing import Times, now_of

log = logging.getLogger(__name__)

SOON = 2.0
"""Seconds between two looks at a machine that is being made."""
KNOCK = 1.0
"""Seconds between two tries to log in to one that has an address."""
LOOK = 30.0
"""Seconds between two looks at one that is in use."""
ENDING = (1.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)
"""Seconds between two looks at one that is to end; the last one repeats."""
TROUBLE = (2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds until a vendor that could not be asked is asked again."""
PATIENCE = 60.0
"""Seconds for which an intent waits for a vendor that cannot be reached; then the next offer is tried. Nothing was sent."""
ACCOUNT = (BadCredentials, PermissionMissing, NoBalance, BackendNotAvailable)
"""What stands in the way of every create of an account, not only of this offer."""
ANOTHER_KEY = (
    "it was made with another key, and the account of the present one has no such machine: put the key of its account back "
    "into config.yml, or end it in the vendor's console and say so: `%dstack cleanup --forget NAME`"
)
ROUNDS = 12
"""Steps in a row before others have their turn."""


class InstanceReconciler:
    """Handles the ``instance`` keys of the work queue, on the engine's loop."""

    def __init__(
        self, database: Database, bus: Bus, vendors: Vendors, machines: Machines, maker: Maker, wake: Callable[[Key], None]
    ) -> None:
        self._database = database
        self._bus = bus
        self._vendors = vendors
        self._machines = machines
        self._maker = maker
        self._meeting = Meeting(database, machines, maker)
        self._wake = wake
        self._times: dict[str, Times] = {}

    async def reconcile(self, key: Key) -> Next:
        """Act until there is nothing to do but wait."""
        times = self._times.setdefault(key.id, Times())
        looked = False
        rent = await self._database.read(rented.load, key.id)
        if rent.instance.state == InstanceState.TERMINATED and not rent.things:
            self._times.pop(key.id, None)
            return Next()
        try:
            cloud = self._vendors.cloud(rent.instance.backend, rent.instance.project)
            if rent.rented.account not in ("", cloud.mark):
                if rent.instance.state == InstanceState.TERMINATED:
                    return Next()  # what stands beside it is the sweeps' business, by whichever key
                if not await self._is_there(cloud, rent):
                    return Next(guard=LOOK)
                rent = await self._database.read(rented.load, key.id)
            for _ in range(ROUNDS):
                step = steps.next_step(now_of(rent, looked, times, restarts=isinstance(cloud, Restarts)), cloud.traits)
                looked = looked or isinstance(step, steps.Find | steps.Look)
                found = await self._act(cloud, rent, step, times)
                times.troubles = 0
                if found is not None:
                    return found
                rent = await self._database.read(rented.load, key.id)
        except BackendError as error:
            return await self._trouble(key, rent, error, times)
        self._wake(key)
        return Next()

    async def _act(self, cloud: Cloud, rent: Rent, step: steps.Step, times: Times) -> Next | None:
        """Do a step and store what came of it. None: go on with the next one."""
        instance = rent.instance
        match step:
            case steps.Create(first):
                return await self._create(cloud, rent, first=first)
            case steps.Find():
                await self._find(cloud, rent)
            case steps.Look():
                again = partial(self._wake, Key("instance", instance.id))
                told = await self._vendors.look(cloud, instance.identity, rent.rented.vendor, again)
                await self._note(rent, [told] if told is not None else [])
            case steps.Meet():
                return await self._meet(rent)
            case steps.Visit():
                times.visited = asyncio.get_running_loop().time()
                try:
                    with aside():
                        await self._machines.guest(instance).visit()
                except Unreachable as error:
                    log.info("%s: %s", instance.identity, error.message)
            case steps.Start():
                return await self._start(cloud, rent, times)
            case steps.LetGo(why):
                await self._let_go(rent, why)
            case steps.Delete():
                return await self._delete(cloud, rent, times)
            case steps.Gone(why):
                await self._gone(cloud, rent, why)
            case steps.Detach():
                await self._detach(cloud, rent)
            case steps.Wait():
                return self._pause(rent, times)
        return None

    # --- making it ------------------------------------------------------------------------------------------------------

    async def _create(self, cloud: Cloud, rent: Rent, *, first: bool) -> Next | None:
        instance = rent.instance
        order = self._maker.order(instance, first=first)
        things = await self._attach(cloud, rent, order)
        try:
            async with self._vendors.place(cloud.mark) as call:
                wanted = await self._database.write(rented.ask, instance.id, cloud.mark)
                self._wake(Key("sweep", cloud.mark))
                if not wanted:
                    return None
                told = await call(cloud.create, replace(order, things=tuple(things)))
        except BackendError as error:
            if not error.nothing_made:
                await self._database.write(rented.say, instance.id, f"it is not known whether it was made: {words(error)}")
                return None
            await self._database.write(rented.unasked, instance.id, rent.rented.asked_at)
            return await self._refused(cloud, rent, error)
        await self._database.write(rented.answered, instance.id, told, self._maker.host_key(instance.id).public)
        self._changed(rent)
        return Next(guard=SOON)

    async def _attach(self, cloud: Cloud, rent: Rent, order: Order) -> list[Thing]:
        """What the machine needs beside itself, each stored before it is made."""
        instance = rent.instance
        found = []
        for need in cloud.needs(order):

            def store(connection: Any, need: Any = need) -> Any:
                where = {"backend": instance.backend, "project": instance.project, "instance_id": instance.id}
                return rented.need(connection, cloud.mark, need, **where)

            thing = await self._database.write(store)
            if thing is None:
                # From here on there may be something in the account, whether or not a machine follows.
                self._wake(Key("sweep", cloud.mark))
                try:
                    thing = await self._vendors.call(cloud.mark, cloud.attach, need)
                except BackendError as error:
                    if not error.nothing_made or isinstance(error, RateLimited | BackendUnreachable):
                        raise
                    await self._gone(
                        cloud, rent, words(error), verdict="account" if isinstance(error, (*ACCOUNT, Refused)) else "offer"
                    )
                    return []
                await self._database.write(rented.made, cloud.mark, need, thing)
            found.append(thing)
        return found

    async def _refused(self, cloud: Cloud, rent: Rent, error: BackendError) -> Next | None:
        """The vendor said no, and surely nothing was made: the next offer is tried, or this one again where time may help."""
        instance = rent.instance
        waited = rent.now - instance.created_at
        if isinstance(error, RateLimited) or (isinstance(error, BackendUnreachable) and waited < PATIENCE):
            raise error
        if isinstance(error, Refused):
            # A shared thing that somebody took away is the likeliest reason: it is made again for the next machine.
            for need in cloud.needs(self._maker.order(instance)):
                if need.shared:
                    await self._database.write(rented.unmade, cloud.mark, need.kind, need.identity)
        verdict = "account" if isinstance(error, (*ACCOUNT, BackendUnreachable)) else "offer"
        await self._gone(cloud, rent, words(error), verdict=verdict)
        return None

    async def _find(self, cloud: Cloud, rent: Rent) -> None:
        """What became of a create. More than one machine of an identity: the oldest is kept."""
        found = sorted(await self._vendors.call(cloud.mark, cloud.find, rent.instance.identity), key=lambda each: each.created_at)
        for each in found[1:]:
            # Before the first one is known: then nobody looks for others any more.
            log.warning("%s: a second machine of this name is ended", rent.instance.identity)
            await self._vendors.call(cloud.mark, cloud.terminate, each.data, ends=True)
        await self._note(rent, found)

    async def _is_there(self, cloud: Cloud, rent: Rent) -> bool:
        """Whether a machine that was made with another key is in the account of the present one: what is not there may be in the
        other, so its absence says nothing (R12)."""
        instance, row = rent.instance, rent.rented
        if row.vendor is not None:
            told = await self._vendors.call(cloud.mark, cloud.get, row.vendor)
            found = [told] if told is not None else []
        else:
            found = await self._vendors.call(cloud.mark, cloud.find, instance.identity)
        found = [each for each in found if each.identity == instance.identity]
        if found:
            await self._database.write(rented.moved, instance.id, cloud.mark)
            await self._note(rent, found)
        elif instance.message != ANOTHER_KEY:
            await self._database.write(rented.say, instance.id, ANOTHER_KEY)
            self._bus.publish_all()
        return bool(found)

    async def _note(self, rent: Rent, found: list[Instance]) -> None:
        if not found:
            await self._database.write(rented.absent, rent.instance.id)
            return
        told, seen = found[0], rent.rented.seen
        known = rent.rented.vendor == told.data and all(seen.get(name) == getattr(told, name) for name in rented.SEEN)
        if known and rent.rented.seen_at is not None and rent.rented.absent_since is None:
            return
        await self._database.write(rented.saw, rent.instance.id, told, self._maker.host_key(rent.instance.id).public)
        self._bus.publish_all()

    # --- its first boot -------------------------------------------------------------------------------------------------

    async def _meet(self, rent: Rent) -> Next | None:
        try:
            facts = await self._meeting.meet(rent)
        except FirstBootFailed as error:
            await self._let_go(rent, str(error))
            return None
        except NotYet as error:
            return await self._not_yet(rent, str(error))
        for attempt_id in await self._database.write(rented.ready, rent.instance.id, facts):
            self._wake(Key("attempt", attempt_id))
        self._changed(rent)
        return None

    async def _not_yet(self, rent: Rent, what: str) -> Next:
        if rent.instance.message != what:
            await self._database.write(rented.say, rent.instance.id, what)
            self._bus.publish_all()
        return Next(guard=KNOCK)

    async def _let_go(self, rent: Rent, why: str) -> None:
        await self._database.write(rented.let_go, rent.instance.id, why)
        self._changed(rent)

    # --- its job's log, when it powered itself off meanwhile -------------------------------------------------------------

    async def _start(self, cloud: Cloud, rent: Rent, times: Times) -> Next | None:
        assert isinstance(cloud, Restarts)
        assert rent.unread is not None
        times.started = asyncio.get_running_loop().time()
        if times.started_for != rent.unread:
            times.started_for, times.starting = rent.unread, times.started
            await self._database.write(rented.started, rent)
            self._changed(rent)
        try:
            await self._vendors.call(cloud.mark, cloud.start, rent.rented.vendor)
        except Busy as error:
            log.info("%s: %s", rent.instance.identity, error.message)
        except (PermissionMissing, Refused, NotAtVendor) as error:
            await self._let_go(rent, f"it is off, and what its job left cannot be read: {words(error)}")
            return None
        except (BackendUnreachable, BadCredentials, RateLimited):
            times.starting = asyncio.get_running_loop().time()  # it was not asked yet
            raise
        return Next(guard=SOON)

    # --- its end --------------------------------------------------------------------------------------------------------

    async def _delete(self, cloud: Cloud, rent: Rent, times: Times) -> Next | None:
        times.deletes += 1
        times.deleted = asyncio.get_running_loop().time()
        try:
            if await self._vendors.call(cloud.mark, cloud.terminate, rent.rented.vendor, ends=True):
                await self._database.write(rented.told, rent.instance.id)
        except Busy as error:
            await self._database.write(rented.say, rent.instance.id, f"it cannot be ended yet: {words(error)}")
        return None

    async def _gone(self, cloud: Cloud, rent: Rent, why: str, *, verdict: str = "") -> None:
        def store(connection: Any) -> None:
            rented.gone(connection, rent.instance.id, why, verdict=verdict)

        await self._database.write(store)
        await self._machines.leave(rent.instance.id)
        try:
            # Before its fleet hears of it and closes: where engines share a store, nobody acts for it then any more.
            await self._detach(cloud, await self._database.read(rented.load, rent.instance.id))
        finally:
            self._changed(rent)

    async def _detach(self, cloud: Cloud, rent: Rent) -> None:
        """What is known to be there. Of what may have been made without an answer a sweep's list tells: its row stays."""
        for row in rent.things:
            if row.thing:
                await self._vendors.call(cloud.mark, cloud.detach, rented.thing_of(row), ends=True)
                await self._database.write(rented.detached, row.account, row.kind, row.identity)

    # --- between --------------------------------------------------------------------------------------------------------

    def _pause(self, rent: Rent, times: Times) -> Next:
        match rent.instance.state:
            case InstanceState.TERMINATED:
                self._times.pop(rent.instance.id, None)
                return Next()
            case InstanceState.TERMINATING:
                times.looks += 1
                return Next(guard=ENDING[min(times.looks, len(ENDING)) - 1])
            case InstanceState.IDLE | InstanceState.BUSY:
                return Next(guard=SOON if rent.rented.seen.get("word") in ("stopped", "starting") else LOOK)
            case _:
                return Next(guard=SOON)

    async def _trouble(self, key: Key, rent: Rent, error: BackendError, times: Times) -> Next:
        """The vendor could not be asked: nothing is concluded from that, and it is asked again (R8, R12)."""
        if isinstance(error, RateLimited):
            return Next(guard=max(0.05, error.delay))
        times.troubles += 1
        await self._database.write(rented.say, key.id, words(error))
        self._bus.publish_all()
        return Next(guard=TROUBLE[min(times.troubles, len(TROUBLE)) - 1])

    def _changed(self, rent: Rent) -> None:
        for kind, id in rent.concerned:
            self._wake(Key(kind, id))
        self._bus.publish_events()
        self._bus.publish_all()


def words(error: BackendError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message
