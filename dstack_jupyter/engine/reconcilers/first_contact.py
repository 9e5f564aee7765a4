"""The first, verified contact with a cloud instance renews its host key and reads the facts that jobs need."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from ...machines.ssh.facts import Hello
from ...machines.ssh.guest import FirstBoot
from ...models.errors import HostKeyChanged, Unreachable
from ..jobs.machines import Machines
from ..provisioning.orders import Maker
from ..runtime.queue import release_slot
from ..store import cloud_instances
from ..store.cloud_instances import CloudInstance
from ..store.database import Database

AT_ONCE = 64
"""First contacts at once: each costs a key exchange, and up to ten seconds where nobody answers."""


class NotYet(Exception):
    """The machine cannot be used yet; the text says why."""


class FirstBootFailed(Exception):
    """The machine can never be used; the text says why."""


class Meeting:
    """Makes first contacts, on the engine's loop."""

    def __init__(self, database: Database, machines: Machines, maker: Maker) -> None:
        self._database = database
        self._machines = machines
        self._maker = maker
        self._room = asyncio.Semaphore(AT_ONCE)

    async def meet(self, machine: CloudInstance) -> dict[str, Any]:
        """Meet a machine and return the facts that its row keeps. Raises NotYet, FirstBootFailed.

        A host key that nobody else ever had replaces the one that user-data held (D6). Idempotent: the caller may repeat this
        from any point.
        """
        try:
            with release_slot():
                async with self._room:
                    return facts_of(await self._greeted(machine))
        except HostKeyChanged:
            raise NotYet("another machine, or a renewed sshd, answers at its address: nothing was sent") from None
        except Unreachable as error:
            raise NotYet(f"waiting for its first log in: {error.message}") from None

    async def _greeted(self, machine: CloudInstance) -> Hello:
        instance, data = machine.instance, machine.instance.data
        guest = self._machines.guest(instance)
        if data.next_key and data.host_key == self._maker.host_key(instance.id).public:
            await self._take_next_key(guest, machine)
        boot, detail = await guest.prepared()
        if boot is FirstBoot.FAILED:
            raise FirstBootFailed(f"its first boot {detail}")
        if boot is not FirstBoot.OK:
            raise NotYet("its first boot goes on")
        if data.host_key == self._maker.host_key(instance.id).public:
            key = await guest.next_host_key()
            await self._database.write(partial(cloud_instances.renewed, instance_id=instance.id, next_key=key))
            await guest.use_host_key()
            await self._database.write(partial(cloud_instances.renewed, instance_id=instance.id, host_key=key))
        hello = await guest.greet()
        await guest.heartbeat()
        return hello

    async def _take_next_key(self, guest: Any, machine: CloudInstance) -> None:
        """An engine died while it renewed the key: whichever of the two keys the machine shows is right."""
        try:
            await guest.prepared()
        except HostKeyChanged:
            shown = machine.instance.data.next_key
            await self._database.write(partial(cloud_instances.renewed, instance_id=machine.instance.id, host_key=shown))


def facts_of(hello: Hello) -> dict[str, Any]:
    """What a job needs to know of a cloud instance. The whole machine is one block."""
    return {"docker": bool(hello.docker_socket), "blocks": 1, "notes": list(hello.facts.notes)}
