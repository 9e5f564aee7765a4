"""Simulated machines as an engine sees them. A view belongs to one engine's life; the host behind it to the world.

Each call has its points: asked, on its way (who dies there has sent it: it takes effect all the same), done but not answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from dstack_jupyter.machines.base import JobReport, JobSpec
from dstack_jupyter.machines.facts import HostFacts
from dstack_jupyter.machines.ssh.facts import Hello
from dstack_jupyter.models.errors import ConfigurationError, Conflict, NotFound, Unreachable

from .loop import current
from .world import Host, World

LATE = 2.0
"""Seconds after a crash at which a call that was on its way takes effect; the next engine is there sooner than these."""
SHELLS = frozenset({"sh", "/bin/sh", "/bin/bash"})


async def carry_out(name: str, host: Host, effect: Callable[[], Any]) -> Any:
    """Do ``effect`` on a host as a call that may be cut anywhere. Raises Unreachable where the host is cut off."""
    loop = current()
    if loop is not None:
        await loop.point(f"host.{name}: asked")
    await asyncio.sleep(host.latency)
    if not host.reachable:
        raise Unreachable(f"{host.name} does not answer")
    if loop is not None and not loop.passes(f"host.{name}: on its way"):
        if host.remote:
            host.time.at(host.time.now + LATE, effect)
        await loop.create_future()
    found = effect()
    if loop is not None:
        await loop.point(f"host.{name}: done, not answered")
    await asyncio.sleep(host.latency)
    if not host.reachable:
        raise Unreachable(f"{host.name} does not answer")
    return found


class SimulatedMachine:
    """``machines.base.Machine``, and what the engine asks of an SSH host beyond that."""

    def __init__(self, host: Host, installation: str = "", world: World | None = None) -> None:
        self._host = host
        self._installation = installation
        self._world = world
        self._listening: dict[str, tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = {}

    async def launch(self, spec: JobSpec) -> None:
        if spec.container is not None:
            raise ConfigurationError("a simulated machine has no containers")
        if spec.shell not in SHELLS:
            raise ConfigurationError(f"there is no shell {spec.shell} on this machine")

        def effect() -> bool:
            if self._world is not None and spec.attempt_id not in self._host.jobs:
                self._world.on_launch(spec.attempt_id)
            self._host.launch(spec)
            lost, self._host.lose_launches = self._host.lose_launches > 0, max(0, self._host.lose_launches - 1)
            return lost

        if await carry_out("launch", self._host, effect):
            raise Unreachable(f"{self._host.name}: the link broke before the answer")

    async def look(self, attempt_id: str, offset: int, limit: int) -> JobReport:
        report: JobReport = await carry_out("look", self._host, lambda: self._look(attempt_id, offset, limit))
        return report

    def _look(self, attempt_id: str, offset: int, limit: int) -> JobReport:
        job = self._host.jobs.get(attempt_id)
        if job is None or (job.began is None and not job.over):
            return JobReport(started=False)
        data = bytes(job.log[offset : offset + limit])
        if len(data) == limit:
            return JobReport(started=True, data=data)
        if job.ending is not None:
            return JobReport(started=True, data=data, ending=job.ending)
        if job.killed:
            if job.boot != self._host.boot:
                return JobReport(True, data, lost="the host was booted while the job ran", interrupted=True)
            return JobReport(True, data, lost="the job's supervisor is gone: it was killed")
        return JobReport(started=True, data=data)

    async def end(self, attempt_id: str, *, abort: bool) -> bool:
        told: bool = await carry_out("end", self._host, lambda: self._host.end(attempt_id, abort=abort))
        return told

    def watch(self, attempt_id: str, changed: Callable[[], None]) -> None:
        self.unwatch(attempt_id)
        mine = self._listening[attempt_id] = (asyncio.get_running_loop(), changed)
        self._host.listeners.setdefault(attempt_id, []).append(mine)
        changed()

    def unwatch(self, attempt_id: str) -> None:
        mine = self._listening.pop(attempt_id, None)
        if mine is not None:
            self._host.listeners[attempt_id].remove(mine)

    async def pull(self, attempt_id: str, path: str) -> AsyncIterator[bytes]:
        raise NotFound("simulated machines keep no files")
        yield b""

    async def ports(self, attempt_id: str) -> dict[int, int]:
        return {}

    async def utilization(self, vendor: str, gpus: tuple[int, ...]) -> list[int]:
        return []

    async def connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        raise Unreachable("nothing answers there")

    async def finish(self, attempt_id: str) -> None:
        await carry_out("finish", self._host, lambda: None)

    async def remove(self, attempt_id: str) -> None:
        def effect() -> None:
            job = self._host.jobs.pop(attempt_id, None)
            if job is not None:
                self._host.removed[attempt_id] = job

        await carry_out("remove", self._host, effect)

    async def close(self) -> None:
        for attempt_id in list(self._listening):
            self.unwatch(attempt_id)

    # --- what only a fleet's host is asked ------------------------------------------------------------------------------

    async def look_around(self) -> Hello:
        hello: Hello = await carry_out("look_around", self._host, lambda: hello_of(self._host))
        return hello

    async def claim(self, instance: str, gone: Callable[[str], Awaitable[bool]]) -> None:
        mine = (self._installation, instance)
        found: tuple[str, str] | None = await carry_out("claim", self._host, lambda: self._host.take(mine))
        if found is not None and found != mine and found[0] == self._installation and await gone(found[1]):
            await self.unclaim(found[1])
            found = await carry_out("claim", self._host, lambda: self._host.take(mine))
        if found != mine:
            raise Conflict(f"{self._host.name} belongs to {found}" if found else f"{self._host.name} was given back")

    async def unclaim(self, instance: str) -> None:
        await carry_out("unclaim", self._host, lambda: self._host.give_back((self._installation, instance)))


def hello_of(host: Host) -> Hello:
    facts = HostFacts(cpus=8.0, memory_gb=32.0, disk_gb=200.0, disk_free_gb=150.0, arch="x86")
    return Hello(
        root="/r",
        home="/h",
        user="u",
        path="/bin",
        boot=str(host.boot),
        hostname=host.name,
        facts=facts,
        addresses=host.addresses,
    )
