"""An engine whose rented machines are simulated: everything else of it is real, the calls to the vendor too.

``python -m benchmarks.rented.engine FOLDER [unlimited]``: jobs are files in FOLDER, which outlive the engine as real ones do; a
datagram to ``FOLDER/news`` says that a job of the engine has ended. ``unlimited`` leaves out the vendor's published limits.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dstack_jupyter.backends.digitalocean.api as digitalocean
from dstack_jupyter.engine import engine
from dstack_jupyter.engine.__main__ import main
from dstack_jupyter.engine.jobs.machines import Machines
from dstack_jupyter.engine.store.rows import InstanceRow
from dstack_jupyter.machines.base import Ending, JobReport, JobSpec
from dstack_jupyter.machines.facts import HostFacts
from dstack_jupyter.machines.ssh.facts import Hello

LATENCY = 0.02
"""Seconds of each call to a machine."""


class Machine:
    """``machines.base.Machine`` for all jobs of the benchmark: they say nothing and run until they are told to end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._watched: dict[str, Callable[[], None]] = {}
        self._news: socket.socket | None = None

    async def launch(self, spec: JobSpec) -> None:
        await asyncio.sleep(LATENCY)
        (self._folder / f"{spec.attempt_id}.began").touch()

    async def look(self, attempt_id: str, offset: int, limit: int) -> JobReport:
        await asyncio.sleep(LATENCY)
        if not (self._folder / f"{attempt_id}.began").exists():
            return JobReport(started=False)
        ended = (self._folder / f"{attempt_id}.ended").exists()
        return JobReport(started=True, ending=Ending(0) if ended else None)

    async def end(self, attempt_id: str, *, abort: bool) -> bool:
        await asyncio.sleep(LATENCY)
        (self._folder / f"{attempt_id}.ended").touch()
        self._changed(attempt_id)
        return True

    def watch(self, attempt_id: str, changed: Callable[[], None]) -> None:
        if self._news is None:
            path = self._folder / "news"
            path.unlink(missing_ok=True)
            self._news = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._news.setblocking(False)
            self._news.bind(str(path))
            asyncio.get_running_loop().add_reader(self._news, self._heard)
        self._watched[attempt_id] = changed
        changed()

    def _heard(self) -> None:
        assert self._news is not None
        self._changed(self._news.recv(64).decode())

    def _changed(self, attempt_id: str) -> None:
        if attempt_id in self._watched:
            self._watched[attempt_id]()

    def unwatch(self, attempt_id: str) -> None:
        self._watched.pop(attempt_id, None)

    async def ports(self, attempt_id: str) -> dict[int, int]:
        return {}

    async def finish(self, attempt_id: str) -> None:
        await asyncio.sleep(LATENCY)

    async def remove(self, attempt_id: str) -> None:
        await asyncio.sleep(LATENCY)

    async def close(self) -> None:
        if self._news is not None:
            asyncio.get_running_loop().remove_reader(self._news)
            self._news.close()


class Guest:
    """``machines.ssh.guest.Guest`` of a machine that is prepared as soon as it has an address."""

    async def prepared(self) -> str:
        await asyncio.sleep(LATENCY)
        return "ok"

    async def next_host_key(self) -> str:
        await asyncio.sleep(LATENCY)
        return "ssh-ed25519 renewed"

    async def use_host_key(self) -> None:
        await asyncio.sleep(LATENCY)

    async def greet(self) -> Hello:
        await asyncio.sleep(LATENCY)
        facts = HostFacts(cpus=4.0, memory_gb=8.0, disk_gb=160.0, disk_free_gb=150.0, arch="x86")
        return Hello("/r", "/h", "u", "/bin", "1", "rented", facts)

    async def visit(self) -> None:
        await asyncio.sleep(LATENCY)


class Rented(Machines):
    """``engine.machines.Machines`` whose machines of vendors are simulated."""

    def __init__(self, folder: Path, *parts: Any) -> None:
        super().__init__(*parts)
        self._machine = Machine(folder)

    def of(self, instance: InstanceRow) -> Any:
        return self._machine

    def host(self, instance: InstanceRow) -> Any:
        return self._machine

    def guest(self, instance: InstanceRow) -> Any:
        return Guest()

    async def close(self) -> None:
        await self._machine.close()
        await super().close()


if __name__ == "__main__":
    if "unlimited" in sys.argv:
        digitalocean.LIMITS = ()  # type: ignore[assignment]
    engine.Engine = partial(engine.Engine, machines=partial(Rented, Path(sys.argv[1])))  # type: ignore[assignment, misc]
    sys.exit(main())
