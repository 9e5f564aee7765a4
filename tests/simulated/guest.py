"""What the engine does on a simulated machine that it rented, beside its jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dstack_jupyter.machines.ssh.facts import Hello
from dstack_jupyter.models.errors import HostKeyChanged, Unreachable

from .backend import BOOT
from .machine import carry_out, hello_of
from .world import Host, World

BOOTED = 4.0
"""Seconds from its address to the end of a machine's first boot."""


class SimulatedGuest:
    """``machines.ssh.guest.Guest``. ``pinned`` is the key that the engine expects it to show."""

    def __init__(self, world: World, host: Host, pinned: str) -> None:
        self._world = world
        self._host = host
        self._pinned = pinned

    async def _do(self, name: str, effect: Callable[[], Any] = lambda: None) -> Any:
        if any(vm.identity == self._host.name and vm.dead for vm in self._world.vms):
            raise Unreachable(f"{self._host.name} does not answer")
        if self._host.shows not in ("", self._pinned):
            raise HostKeyChanged(f"{self._host.name} shows another key: nothing was sent")
        return await carry_out(name, self._host, effect)

    async def prepared(self) -> str:
        vm = next(vm for vm in self._world.vms if vm.identity == self._host.name)
        self._host.shows = self._host.shows or self._pinned

        def effect() -> str:
            if self._world.time.now < vm.made + BOOT + BOOTED:
                return ""
            return "failed: 1" if vm.bad_boot else "ok"

        said: str = await self._do("prepared", effect)
        return said

    async def next_host_key(self) -> str:
        def effect() -> str:
            self._host.next_key = f"ssh-ed25519 renewed{len(self._host.next_key)}"
            return self._host.next_key

        key: str = await self._do("next_host_key", effect)
        return key

    async def use_host_key(self) -> None:
        def effect() -> None:
            self._host.shows = self._host.next_key

        await self._do("use_host_key", effect)
        self._pinned = self._host.shows

    async def greet(self) -> Hello:
        hello: Hello = await self._do("greet", lambda: hello_of(self._host))
        return hello

    async def heartbeat(self) -> None:
        await self._do("heartbeat", lambda: setattr(self._host, "heartbeat_at", self._world.time.now))
