"""The machines behind instance rows: this one, and one SSH machine for each host of a fleet and each cloud instance."""

from __future__ import annotations

from ...machines.base import Machine
from ...machines.local import LocalMachine
from ...machines.ssh.connection import Address, Connections
from ...machines.ssh.guest import Guest
from ...machines.ssh.machine import SSHMachine
from ...models.errors import Unreachable
from ...models.home import Home
from ..keys.identity_files import located
from ..keys.ssh_keys import Keys
from ..runtime import location
from ..store import host_keys
from ..store.database import Database
from ..store.rows import InstanceRow


class StoredPins:
    """``machines.ssh.connection.Pins`` in the store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, endpoint: str) -> str:
        return await self._database.read(host_keys.pinned, endpoint)

    async def put(self, endpoint: str, key: str) -> None:
        await self._database.write(host_keys.pin, endpoint, key)


class Machines:
    """The machines of this engine, on its loop."""

    def __init__(self, home: Home, database: Database, keys: Keys, installation: str, here: str) -> None:
        self._place = here
        self._home = home
        self.local = LocalMachine(home.jobs)
        self._installation = installation
        self._keys = keys
        self._pins = StoredPins(database)
        self._connections: Connections | None = None
        self._hosts: dict[str, tuple[Address, SSHMachine]] = {}

    def of(self, instance: InstanceRow) -> Machine:
        """Raises Unreachable for a process of another engine's machine, and for a cloud instance without an address."""
        if instance.backend != "local":
            return self.host(instance)
        bound = instance.data.place
        if bound and not location.same(bound, self._place):
            there = location.name_of(bound)
            raise Unreachable(f"the job and its files are on {there}", hint=f"ask the Jupyter server that runs on {there}")
        return self.local

    def host(self, instance: InstanceRow) -> SSHMachine:
        """The machine of a fleet's host or a cloud instance; made anew when its address has changed."""
        if instance.data.address is None:
            raise Unreachable(f"{instance.identity} has no address yet")
        address = located(Address.of_json(dict(instance.data.address)), self._home)
        known = self._hosts.get(instance.id)
        if known is None or known[0] != address:
            if self._connections is None:
                self._connections = Connections(self._pins, self._keys.file)
            machine = SSHMachine(self._connections, address, self._installation, instance.region)
            self._hosts[instance.id] = (address, machine)
            return machine
        return known[1]

    def guest(self, instance: InstanceRow) -> Guest:
        """The engine's side of a cloud instance, beside its jobs."""
        return Guest(self.host(instance).host)

    async def leave(self, instance_id: str) -> None:
        """Close what we have open to a host that was given back, or to a cloud instance that is gone.

        The address of an instance may be another's soon; a host may be in use by its next fleet already.
        """
        address, machine = self._hosts.pop(instance_id, (None, None))
        if machine is not None:
            await machine.close()
            if all(other != address for other, _ in self._hosts.values()) and self._connections is not None:
                await self._connections.forget(machine.host.address)

    async def close(self) -> None:
        await self.local.close()
        for _, machine in self._hosts.values():
            await machine.close()
        if self._connections is not None:
            await self._connections.close()
