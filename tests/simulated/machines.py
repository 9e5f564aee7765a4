"""The machines of a world as an engine asks for them."""

from __future__ import annotations

from typing import Any

from dstack_jupyter.engine.jobs.machines import Machines
from dstack_jupyter.engine.store.rows import InstanceRow
from dstack_jupyter.models.errors import Unreachable

from .guest import SimulatedGuest
from .machine import SimulatedMachine
from .world import Host, World


class SimulatedMachines(Machines):
    """``engine.machines.Machines`` over a world: hosts by their address, this machine, and machines that a vendor rented."""

    def __init__(self, world: World, installation: str) -> None:
        self._world = world
        self._installation = installation
        self._views: dict[str, SimulatedMachine] = {}
        self.local: Any = self._view(world.host("local", remote=False))

    def _view(self, host: Host) -> SimulatedMachine:
        if host.name not in self._views:
            self._views[host.name] = SimulatedMachine(host, self._installation, self._world)
        return self._views[host.name]

    def of(self, instance: InstanceRow) -> Any:
        return self.local if instance.backend == "local" else self.host(instance)

    def host(self, instance: InstanceRow) -> Any:
        if instance.data.address is None:
            raise Unreachable("no address yet")
        return self._view(self._world.host(instance.data.address["hostname"]))

    def guest(self, instance: InstanceRow) -> Any:
        return SimulatedGuest(self._world, self._world.host(instance.data.address["hostname"]), instance.data.host_key)

    def forget(self, instance_id: str) -> None:
        pass

    async def leave(self, instance_id: str) -> None:
        pass

    async def close(self) -> None:
        for view in self._views.values():
            await view.close()
