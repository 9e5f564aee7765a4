"""Real machines for these tests: this one, and hosts reached by SSH with and without Docker."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dstack_jupyter.machines.base import Container, JobReport, JobSpec, Machine
from dstack_jupyter.machines.ssh.connection import Address, Connections
from dstack_jupyter.machines.ssh.machine import SSHMachine
from tests.hosts.fixtures import BUSYBOX, DEBIAN, image_folder, private_registry, three_hosts
from tests.hosts.hosts import Host, HostSet


class Pins:
    """Host keys in memory."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    async def get(self, endpoint: str) -> str:
        return self.known.get(endpoint, "")

    async def put(self, endpoint: str, key: str) -> None:
        self.known[endpoint] = key


@dataclass
class Desk:
    """The engine's side: its pins, its connections, and the machines that a test opened."""

    hosts: HostSet
    pins: Pins
    connections: Connections
    opened: list[SSHMachine] = field(default_factory=list)

    def address(self, host: Host, **more: object) -> Address:
        values = {"hostname": host.ip, "port": 22, "user": "root", "identity_file": str(self.hosts.key), **more}
        return Address(**values)  # type: ignore[arg-type]

    def machine(self, host: Host, **more: object) -> SSHMachine:
        found = SSHMachine(self.connections, self.address(host, **more), "tests", "desk")
        self.opened.append(found)
        return found


@pytest.fixture
async def desk(three_hosts: HostSet, tmp_path: Path) -> AsyncIterator[Desk]:
    """Machines of this desk leave no container and no job folder behind."""
    pins = Pins()
    found = Desk(three_hosts, pins, Connections(pins, tmp_path / "own_key"))
    yield found
    for machine in found.opened:
        await machine.close()
    await found.connections.close()
    for host in three_hosts:
        host.run("docker ps -aq --filter label=dj-installation=tests | xargs -r docker rm -f >/dev/null 2>&1")
        host.run("pkill -KILL -f job[.]sh; rm -rf /root/.dstack_jupyter")


def spec(*commands: str, image: str = "", attempt_id: str = "a1", **more: object) -> JobSpec:
    """A job in ``sh``; in a container where an image is named."""
    container = {name: more.pop(name) for name in list(more) if name in Container.__dataclass_fields__}
    values = {"attempt_id": attempt_id, "commands": list(commands), "env": {}, "shell": "/bin/sh", **more}
    if image:
        values["container"] = Container(image=image, **container)  # type: ignore[arg-type]
    return JobSpec(**values)  # type: ignore[arg-type]


async def until(machine: Machine, done: Callable[[JobReport], object], attempt: str = "a1", seconds: float = 30) -> JobReport:
    """Wait, woken by the machine's own watch, until a look satisfies ``done``."""
    woken = asyncio.Event()
    machine.watch(attempt, woken.set)
    try:
        async with asyncio.timeout(seconds):
            while True:
                woken.clear()
                report = await machine.look(attempt, 0, 1 << 23)
                if done(report):
                    return report
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), 2)
    finally:
        machine.unwatch(attempt)


async def ended(machine: Machine, attempt: str = "a1", seconds: float = 30) -> JobReport:
    return await until(machine, lambda report: report.ending or report.lost or report.refused, attempt, seconds)


async def says(machine: Machine, what: bytes, attempt: str = "a1") -> JobReport:
    return await until(machine, lambda report: what in report.data, attempt)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


__all__ = ["BUSYBOX", "DEBIAN", "Desk", "ended", "image_folder", "private_registry", "says", "spec", "three_hosts", "until"]
