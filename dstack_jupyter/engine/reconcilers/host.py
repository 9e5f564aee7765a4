"""The host reconciler: reaches, claims and examines each host of an SSH fleet, and says why a host cannot be used.

One host's fault stands in ``%dstack fleets``; the other hosts work.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterator

from sqlalchemy import Connection

from ...machines.gpu_tools import devices, offered
from ...machines.ssh.facts import Hello
from ...machines.ssh.machine import SSHMachine
from ...models.errors import DstackJupyterError, Unreachable
from ...models.states import InstanceState
from ..runtime.bus import Bus
from ..runtime.queue import Key, Next
from ..store import hosts, moves
from ..store.database import Database
from ..store.rows import FleetRow, InstanceRow

log = logging.getLogger(__name__)

AGAIN = 30.0
"""Seconds until a host that cannot be used is tried again."""
CHECK = 60.0
"""Seconds between two looks at a host that can be used."""


class HostReconciler:
    """Handles the ``host`` keys of the work queue, on the engine's loop.

    ``machine`` finds the machine of an instance row, ``leave`` closes what is open to it. ``changed`` is called when hosts became
    usable or unusable, ``closed`` for each fleet that is gone.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        machine: Callable[[InstanceRow], SSHMachine],
        leave: Callable[[str], Awaitable[None]],
        changed: Callable[[], None],
        closed: Callable[[str], None],
    ) -> None:
        self._database = database
        self._bus = bus
        self._machine = machine
        self._leave = leave
        self._changed = changed
        self._closed = closed

    async def reconcile(self, key: Key) -> Next:
        row, fleet = await self._database.read(hosts.load_host, key.id)
        if row.state == InstanceState.TERMINATED:
            return Next()
        if row.state == InstanceState.TERMINATING:
            await self._release(row, fleet)
            return Next()
        machine = self._machine(row)
        before = (row.state, row.message, row.offer_json)
        try:
            hello = await machine.look_around()
            await machine.claim(row.id, self._gone)
            problem = "; ".join(hello.problems)
            await self._database.write(_note, row, hello, problem)
        except DstackJupyterError as error:
            problem = error.text
            await self._database.write(_trouble, row.id, problem)
        after, _ = await self._database.read(hosts.load_host, key.id)
        if (after.state, after.message, after.offer_json) != before:
            self._bus.publish_all()
            self._changed()
        return Next(guard=AGAIN if problem else CHECK)

    async def _gone(self, instance_id: str) -> bool:
        return await self._database.read(hosts.is_gone, instance_id)

    async def _release(self, row: InstanceRow, fleet: FleetRow) -> None:
        """Give the host back. A host that cannot be reached is given up: the user owns it, and it costs nothing here."""
        message = row.message
        try:
            await self._machine(row).unclaim(row.id)
        except Unreachable as error:
            message = f"{message}; our claim file stays there: {error.message}"
        except DstackJupyterError as error:
            log.warning("host %s: %s", row.instance_type, error.message)
        await self._leave(row.id)

        def gone(connection: Connection) -> bool:
            moves.move_instance(connection, row.id, InstanceState.TERMINATED, message=message)
            return hosts.close_if_empty(connection, fleet.id)

        if await self._database.write(gone):
            self._closed(fleet.id)
        self._bus.publish_all()
        self._changed()


def blocks_of(wanted: int | str, cpus: int, gpus: int) -> int:
    """The number of blocks of a host: as many as asked for. Raises ValueError if its cores or GPUs do not divide evenly."""
    if wanted == "auto":
        return max(1, min(cpus, gpus) if gpus else cpus)
    count = int(wanted)
    if cpus % count or (gpus and gpus % count):
        raise ValueError(f"{count} blocks do not divide {cpus} CPUs" + (f" and {gpus} GPUs" if gpus else "") + " evenly")
    return count


def _addresses(hello: Hello) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """The addresses that a host reports. Invalid ones are left out: a host may report anything."""
    for each in hello.addresses:
        with contextlib.suppress(ValueError):
            yield ipaddress.ip_interface(each).ip


def internal_ip(row: InstanceRow, hello: Hello) -> str:
    """The address that other nodes use: the configured one, one in the fleet's network, or the one that the engine uses."""
    data = row.data
    if data.internal_ip:
        return data.internal_ip
    own = list(_addresses(hello))
    if data.network:
        network = ipaddress.ip_network(data.network, strict=False)
        return str(next((address for address in own if address in network), ""))
    assert data.address is not None
    hostname = data.address["hostname"]
    if hostname in {str(address) for address in own}:
        return hostname
    return str(own[0]) if own else hostname


def _note(connection: Connection, row: InstanceRow, hello: Hello, problem: str) -> None:
    facts = hello.facts
    gpus, left_out = offered(facts.gpus, facts.memory_gb)
    notes = [*facts.notes, *left_out]
    if hello.docker_problem:
        notes.append(hello.docker_problem)
    elif gpus and gpus[0].vendor == "nvidia" and not hello.nvidia_toolkit:
        notes.append("the NVIDIA container toolkit is missing: containers get no GPUs, processes do")
    try:
        blocks = blocks_of(row.data.blocks_wanted, int(facts.cpus), len(gpus))
    except ValueError as error:
        blocks, problem = 1, problem or str(error)
    offer = {
        "backend": "ssh",
        "region": row.region,
        "zone": "",
        "instance_type": row.instance_type,
        "cpus": facts.cpus,
        "memory_gb": facts.memory_gb,
        "disk_gb": facts.disk_free_gb,
        "gpu_vendor": gpus[0].vendor if gpus else "",
        "gpu_name": gpus[0].name if gpus else "",
        "gpu_count": len(gpus),
        "gpu_memory_gb": gpus[0].memory_gb if gpus else 0.0,
        "devices": devices(gpus),
        "cpu_arch": facts.arch,
        "spot": False,
        "price": 0.0,
        "availability": "idle",
        "reason": "; ".join(notes),
        "source": "host",
        "price_date": "",
    }
    data = {
        "blocks": blocks,
        "docker": bool(hello.docker_socket),
        "internal_ip_found": internal_ip(row, hello),
        "notes": notes,
        "clock_ahead": round(hello.clock_ahead),
    }
    hosts.note(connection, row.id, message=problem, offer=offer, data=data)


def _trouble(connection: Connection, instance_id: str, problem: str) -> None:
    hosts.note(connection, instance_id, message=problem, offer={}, data={})
