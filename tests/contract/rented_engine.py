"""An engine whose rented machines are folders of this one: the vendor is asked over HTTP, jobs are real, no boot and no network.

They stand where an address and a log in would be (``engine.machines.Machines``). One that is powered off answers nobody.
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.engine.jobs.machines import Machines
from dstack_jupyter.engine.process import host as hosting
from dstack_jupyter.engine.store.rows import InstanceRow
from dstack_jupyter.machines.base import JobSpec
from dstack_jupyter.machines.facts import HostFacts
from dstack_jupyter.machines.local import SYSTEM_PATH, LocalMachine
from dstack_jupyter.machines.ssh.facts import Hello
from dstack_jupyter.machines.ssh.guest import FirstBoot
from dstack_jupyter.models.errors import Unreachable
from dstack_jupyter.models.home import Home
from tests.contract import quick_engine

FACTS = HostFacts(cpus=4.0, memory_gb=8.0, disk_gb=160.0, disk_free_gb=150.0, arch="x86")


def folder_of(home: Home, identity: str) -> Path:
    return home.root / "rented" / identity


def power_off(home: Home, identity: str) -> None:
    """Every process of it ends, and nothing on it is found any more."""
    folder = folder_of(home, identity)
    (folder / "off").touch()
    for pid in folder.glob("*/pid"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.killpg(int(pid.read_text().split()[0]), signal.SIGKILL)


class Guest:
    """``machines.ssh.guest.Guest`` of a machine that is a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def prepared(self) -> tuple[FirstBoot, str]:
        return FirstBoot.OK, "ok"

    async def next_host_key(self) -> str:
        return "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5Wf6c0zY4Yb1yY8z7m6Z9bZl1Q5q1Q2r3s4t5u6v7w"

    async def use_host_key(self) -> None:
        pass

    async def greet(self) -> Hello:
        return Hello(root="/", home="/root", user="root", path="/bin", boot="1", hostname=self._folder.name, facts=FACTS)

    async def heartbeat(self) -> None:
        pass


class FolderMachine(LocalMachine):
    """A job's home is the machine's folder, not that of whoever runs the tests."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._home = {"HOME": str(folder), "PATH": SYSTEM_PATH}

    async def launch(self, spec: JobSpec) -> None:
        await super().launch(replace(spec, env={**self._home, **spec.env}))


class FolderMachines(Machines):
    """``engine.machines.Machines``: the machine of a rented instance is the folder of its identity."""

    def __init__(self, home: Home, *more: Any) -> None:
        super().__init__(home, *more)
        self._folders: dict[str, LocalMachine] = {}

    def host(self, instance: InstanceRow) -> Any:
        folder = folder_of(self._home, instance.identity)
        if instance.data.address is None or (folder / "off").exists():
            raise Unreachable(f"{instance.identity} does not answer")
        if instance.id not in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
            self._folders[instance.id] = FolderMachine(folder)
        return self._folders[instance.id]

    def guest(self, instance: InstanceRow) -> Any:
        self.host(instance)
        return Guest(folder_of(self._home, instance.identity))

    async def leave(self, instance_id: str) -> None:
        machine = self._folders.pop(instance_id, None)
        if machine is not None:
            await machine.close()


if __name__ == "__main__":
    hosting._import_engine = lambda: partial(Engine, machines=FolderMachines)  # type: ignore[assignment,return-value]
    quick_engine.hurry()
    quick_engine.process.main()
