"""The instance reconciler: takes each cloud instance from its intent until the vendor says that the machine is gone.

Each instance has one key, so one act at a time. ``steps.instance`` decides; this module acts and stores.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ...backends.base import Cloud, CloudResource, Instance, InstanceRequest, Restarts
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
from ..runtime.queue import Key, Next, release_slot
from ..steps import instance as steps
from ..store import cloud_instances
from ..store.cloud_instances import CloudInstance
from ..store.database import Database
from ..store.rows import OBSERVED
from .first_contact import FirstBootFailed, Meeting, NotYet
from .timing import Times, now_of

log = logging.getLogger(__name__)

SOON = 2.0
"""Seconds between two looks at a machine that its vendor is making."""
KNOCK = 1.0
"""Seconds between two tries to log in to a machine that has an address."""
LOOK = 30.0
"""Seconds between two looks at a machine in use."""
ENDING = (1.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)
"""Seconds between two looks at a machine that is to end; the last number repeats."""
TROUBLE = (2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds until the engine asks a vendor again that could not be asked."""
PATIENCE = 60.0
"""Seconds for which an intent waits for a vendor that cannot be reached. Nothing was sent, so the next offer is tried."""
ACCOUNT = (BadCredentials, PermissionMissing, NoBalance, BackendNotAvailable)
"""Errors that stop every create of an account, not only this offer's."""
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
        machine = await self._database.read(cloud_instances.load, key.id)
        if machine.instance.state == InstanceState.TERMINATED and not machine.resources:
            self._times.pop(key.id, None)
            return Next()
        try:
            cloud = self._vendors.cloud(machine.instance.backend, machine.instance.project)
            if machine.cloud.account not in ("", cloud.account_id):
                if machine.instance.state == InstanceState.TERMINATED:
                    return Next()  # the sweeps look after its cloud resources, by whichever key
                if not await self._is_there(cloud, machine):
                    return Next(guard=LOOK)
                machine = await self._database.read(cloud_instances.load, key.id)
            for _ in range(ROUNDS):
                step = steps.next_step(now_of(machine, looked, times, restarts=isinstance(cloud, Restarts)), cloud.traits)
                looked = looked or isinstance(step, steps.Find | steps.Look)
                after = await self._act(cloud, machine, step, times)
                times.troubles = 0
                if after is not None:
                    return after
                machine = await self._database.read(cloud_instances.load, key.id)
        except BackendError as error:
            return await self._trouble(key, error, times)
        self._wake(key)
        return Next()

    async def _act(self, cloud: Cloud, machine: CloudInstance, step: steps.Step, times: Times) -> Next | None:
        """Do a step and store its outcome. None: go on with the next step."""
        instance = machine.instance
        match step:
            case steps.Create(first):
                return await self._create(cloud, machine, first=first)
            case steps.Find():
                await self._find(cloud, machine)
            case steps.Look():
                again = partial(self._wake, Key("instance", instance.id))
                assert machine.cloud.vendor is not None
                seen = await self._vendors.look(cloud, instance.identity, machine.cloud.vendor, again)
                await self._note(machine, [seen] if seen is not None else [])
            case steps.Meet():
                return await self._meet(machine)
            case steps.Heartbeat():
                times.heartbeat_at = asyncio.get_running_loop().time()
                try:
                    with release_slot():
                        await self._machines.guest(instance).heartbeat()
                except Unreachable as error:
                    log.info("%s: %s", instance.identity, error.message)
            case steps.Start():
                return await self._start(cloud, machine, times)
            case steps.LetGo(why):
                await self._let_go(machine, why)
            case steps.Delete():
                return await self._delete(cloud, machine, times)
            case steps.Gone(why):
                await self._gone(cloud, machine, why)
            case steps.Detach():
                await self._detach(cloud, machine)
            case steps.Wait():
                return self._pause(machine, times)
        return None

    # --- making it ------------------------------------------------------------------------------------------------------

    async def _create(self, cloud: Cloud, machine: CloudInstance, *, first: bool) -> Next | None:
        instance = machine.instance
        request = self._maker.request(instance, first=first)
        resources = await self._attach(cloud, machine, request)
        try:
            async with self._vendors.thread_slot(cloud.account_id) as call:
                wanted = await self._database.write(cloud_instances.ask, instance.id, cloud.account_id)
                self._wake(Key("sweep", cloud.account_id))
                if not wanted:
                    return None
                created = await call(cloud.create, replace(request, resources=tuple(resources)))
        except BackendError as error:
            if not error.nothing_made:
                await self._database.write(cloud_instances.say, instance.id, f"it is not known whether it was made: {error.text}")
                return None
            await self._database.write(cloud_instances.unasked, instance.id, machine.cloud.create_sent_at)
            return await self._refused(cloud, machine, error)
        await self._database.write(cloud_instances.answered, instance.id, created, self._maker.host_key(instance.id).public)
        self._changed(machine)
        return Next(guard=SOON)

    async def _attach(self, cloud: Cloud, machine: CloudInstance, request: InstanceRequest) -> list[CloudResource]:
        """The cloud resources that the machine needs. Each is stored before the vendor makes it."""
        instance = machine.instance
        attached = []
        for need in cloud.needs(request):

            def store(connection: Any, need: Any = need) -> Any:
                where = {"backend": instance.backend, "project": instance.project, "instance_id": instance.id}
                return cloud_instances.need(connection, cloud.account_id, need, **where)

            resource = await self._database.write(store)
            if resource is None:
                # From here on the account may hold a cloud resource, whether or not a machine follows.
                self._wake(Key("sweep", cloud.account_id))
                try:
                    resource = await self._vendors.call(cloud.account_id, cloud.attach, need)
                except BackendError as error:
                    if not error.nothing_made or isinstance(error, RateLimited | BackendUnreachable):
                        raise
                    await self._gone(
                        cloud, machine, error.text, verdict="account" if isinstance(error, (*ACCOUNT, Refused)) else "offer"
                    )
                    return []
                await self._database.write(cloud_instances.made, cloud.account_id, need, resource)
            attached.append(resource)
        return attached

    async def _refused(self, cloud: Cloud, machine: CloudInstance, error: BackendError) -> Next | None:
        """The vendor refused and surely made nothing. The next offer is tried, or this one again where time may help."""
        instance = machine.instance
        waited = machine.now - instance.created_at
        if isinstance(error, RateLimited) or (isinstance(error, BackendUnreachable) and waited < PATIENCE):
            raise error
        if isinstance(error, Refused):
            # Most likely somebody removed a shared cloud resource: the next machine makes it again.
            for need in cloud.needs(self._maker.request(instance)):
                if need.shared:
                    await self._database.write(cloud_instances.unmade, cloud.account_id, need.kind, need.identity)
        verdict = "account" if isinstance(error, (*ACCOUNT, BackendUnreachable)) else "offer"
        await self._gone(cloud, machine, error.text, verdict=verdict)
        return None

    async def _find(self, cloud: Cloud, machine: CloudInstance) -> None:
        """Ask what became of a create. Of several machines of one identity the oldest is kept."""
        instances = sorted(
            await self._vendors.call(cloud.account_id, cloud.find, machine.instance.identity), key=lambda each: each.created_at
        )
        for each in instances[1:]:
            # Before the first machine is stored: after that nobody looks for others.
            log.warning("%s: a second machine of this name is ended", machine.instance.identity)
            await self._vendors.call(cloud.account_id, cloud.terminate, each.data, ends=True)
        await self._note(machine, instances)

    async def _is_there(self, cloud: Cloud, machine: CloudInstance) -> bool:
        """Whether the present key's account has a machine that was made with another key. The other account may have it, so
        absence says nothing (R12)."""
        instance, row = machine.instance, machine.cloud
        if row.vendor is not None:
            seen = await self._vendors.call(cloud.account_id, cloud.get, row.vendor)
            instances = [seen] if seen is not None else []
        else:
            instances = await self._vendors.call(cloud.account_id, cloud.find, instance.identity)
        instances = [each for each in instances if each.identity == instance.identity]
        if instances:
            await self._database.write(cloud_instances.moved, instance.id, cloud.account_id)
            await self._note(machine, instances)
        elif instance.message != ANOTHER_KEY:
            await self._database.write(cloud_instances.say, instance.id, ANOTHER_KEY)
            self._bus.publish_all()
        return bool(instances)

    async def _note(self, machine: CloudInstance, instances: list[Instance]) -> None:
        if not instances:
            await self._database.write(cloud_instances.absent, machine.instance.id)
            return
        seen, observed = instances[0], machine.cloud.observed
        same = all(getattr(observed, name) == getattr(seen, name) for name in OBSERVED)
        known = machine.cloud.vendor == seen.data and same
        if known and machine.cloud.observed_at is not None and machine.cloud.absent_since is None:
            return
        await self._database.write(
            cloud_instances.saw, machine.instance.id, seen, self._maker.host_key(machine.instance.id).public
        )
        self._bus.publish_all()

    # --- its first boot -------------------------------------------------------------------------------------------------

    async def _meet(self, machine: CloudInstance) -> Next | None:
        try:
            facts = await self._meeting.meet(machine)
        except FirstBootFailed as error:
            await self._let_go(machine, str(error))
            return None
        except NotYet as error:
            return await self._not_yet(machine, str(error))
        for attempt_id in await self._database.write(cloud_instances.ready, machine.instance.id, facts):
            self._wake(Key("attempt", attempt_id))
        self._changed(machine)
        return None

    async def _not_yet(self, machine: CloudInstance, what: str) -> Next:
        if machine.instance.message != what:
            await self._database.write(cloud_instances.say, machine.instance.id, what)
            self._bus.publish_all()
        return Next(guard=KNOCK)

    async def _let_go(self, machine: CloudInstance, why: str) -> None:
        await self._database.write(cloud_instances.let_go, machine.instance.id, why)
        self._changed(machine)

    # --- its job's log, when it powered itself off meanwhile -------------------------------------------------------------

    async def _start(self, cloud: Cloud, machine: CloudInstance, times: Times) -> Next | None:
        assert isinstance(cloud, Restarts)
        assert machine.unread is not None
        times.started = asyncio.get_running_loop().time()
        if times.started_for != machine.unread:
            times.started_for, times.starting = machine.unread, times.started
            await self._database.write(cloud_instances.started, machine)
            self._changed(machine)
        try:
            await self._vendors.call(cloud.account_id, cloud.start, machine.cloud.vendor)
        except Busy as error:
            log.info("%s: %s", machine.instance.identity, error.message)
        except (PermissionMissing, Refused, NotAtVendor) as error:
            await self._let_go(machine, f"it is off, and what its job left cannot be read: {error.text}")
            return None
        except (BackendUnreachable, BadCredentials, RateLimited):
            times.starting = asyncio.get_running_loop().time()  # the vendor was not asked yet
            raise
        return Next(guard=SOON)

    # --- its end --------------------------------------------------------------------------------------------------------

    async def _delete(self, cloud: Cloud, machine: CloudInstance, times: Times) -> Next | None:
        times.deletes += 1
        times.deleted = asyncio.get_running_loop().time()
        try:
            if await self._vendors.call(cloud.account_id, cloud.terminate, machine.cloud.vendor, ends=True):
                await self._database.write(cloud_instances.delete_accepted, machine.instance.id)
        except Busy as error:
            await self._database.write(cloud_instances.say, machine.instance.id, f"it cannot be ended yet: {error.text}")
        return None

    async def _gone(self, cloud: Cloud, machine: CloudInstance, why: str, *, verdict: str = "") -> None:
        def store(connection: Any) -> None:
            cloud_instances.gone(connection, machine.instance.id, why, verdict=verdict)

        await self._database.write(store)
        await self._machines.leave(machine.instance.id)
        try:
            # Before its fleet closes: where engines share a store, nobody acts for a closed fleet.
            await self._detach(cloud, await self._database.read(cloud_instances.load, machine.instance.id))
        finally:
            self._changed(machine)

    async def _detach(self, cloud: Cloud, machine: CloudInstance) -> None:
        """Detach the cloud resources that the vendor confirmed. Rows of unanswered creates stay: a sweep's list settles them."""
        for row in machine.resources:
            if row.resource_id:
                await self._vendors.call(cloud.account_id, cloud.detach, cloud_instances.resource_of(row), ends=True)
                await self._database.write(cloud_instances.detached, row.account, row.kind, row.identity)

    # --- between --------------------------------------------------------------------------------------------------------

    def _pause(self, machine: CloudInstance, times: Times) -> Next:
        match machine.instance.state:
            case InstanceState.TERMINATED:
                self._times.pop(machine.instance.id, None)
                return Next()
            case InstanceState.TERMINATING:
                times.looks += 1
                return Next(guard=ENDING[min(times.looks, len(ENDING)) - 1])
            case InstanceState.IDLE | InstanceState.BUSY:
                return Next(guard=SOON if machine.cloud.observed.status in ("stopped", "starting") else LOOK)
            case _:
                return Next(guard=SOON)

    async def _trouble(self, key: Key, error: BackendError, times: Times) -> Next:
        """The vendor could not be asked. The engine concludes nothing from that and asks again (R8, R12)."""
        if isinstance(error, RateLimited):
            return Next(guard=max(0.05, error.delay))
        times.troubles += 1
        await self._database.write(cloud_instances.say, key.id, error.text)
        self._bus.publish_all()
        return Next(guard=TROUBLE[min(times.troubles, len(TROUBLE)) - 1])

    def _changed(self, machine: CloudInstance) -> None:
        for kind, id in machine.concerned:
            self._wake(Key(kind, id))
        self._bus.publish_events()
        self._bus.publish_all()
