"""The contract of machines on real ones: a process here, a process over SSH, a container over SSH. And what needs real files."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dstack_jupyter.machines.base import Archive, Ending, JobSpec, Machine
from dstack_jupyter.machines.local import LocalMachine, clean_environment
from dstack_jupyter.models.errors import ConfigurationError, NotFound
from tests.hosts.hosts import HostSet
from tests.machines.conftest import BUSYBOX, Desk, ended, says, spec
from tests.machines.contract import *  # noqa: F403 - its tests

pytestmark = [pytest.mark.machines, pytest.mark.timeout(120)]


class Kind:
    """A machine with the job specifications that suit it; ``another()`` is a second engine's view of the same machine."""

    def __init__(self, kind: str, desk: Desk, hosts: HostSet, jobs: Path) -> None:
        self.kind, self._desk, self._hosts, self._jobs = kind, desk, hosts, jobs
        self._local: list[LocalMachine] = []

    def another(self) -> Machine:
        if self.kind != "local":
            return self._desk.machine(self._hosts[0])
        self._local.append(LocalMachine(self._jobs))
        return self._local[-1]

    def spec(self, *commands: str, **more: object) -> JobSpec:
        if self.kind == "local":
            more["env"] = {**clean_environment(), "HOME": str(self._jobs), **more.get("env", {})}  # type: ignore[dict-item]
        return spec(*commands, image=BUSYBOX if self.kind == "docker" else "", **more)

    async def lose_folders(self) -> None:
        """Somebody removes the job folders."""
        if self.kind == "local":
            shutil.rmtree(self._jobs)
            self._jobs.mkdir()
        else:
            self._hosts[0].do("rm -rf /root/.dstack_jupyter/jobs/*")

    async def close(self) -> None:
        for machine in self._local:
            await machine.close()


@pytest.fixture(params=["local", "process", "docker"])
async def kind(request: pytest.FixtureRequest, desk: Desk, three_hosts: HostSet, tmp_path: Path) -> AsyncIterator[Kind]:
    (tmp_path / "jobs").mkdir()
    found = Kind(request.param, desk, three_hosts, tmp_path / "jobs")
    yield found
    await found.close()


@pytest.fixture
def machine(kind: Kind) -> Machine:
    return kind.another()


async def test_code_comes_and_results_go(kind: Kind, machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "train.sh").write_text("mkdir -p out/deep; echo 1 > out/a; echo 2 > out/deep/b; echo trained; pwd")
    archive = tmp_path / "code.tar"
    subprocess.run(["tar", "-C", tmp_path, "-cf", archive, "train.sh"], check=True)
    job = kind.spec("sh train.sh", archives=[Archive(archive, "sub"), Archive(archive, ".")], working_dir="sub")
    await machine.launch(job)
    report = await ended(machine)
    assert report.data.startswith(b"trained\n")
    assert report.data.endswith(b"/sub\n")
    tar = b"".join([chunk async for chunk in machine.pull("a1", "sub/out")])
    names = subprocess.run(["tar", "-t"], input=tar, capture_output=True, check=True).stdout.decode().split()
    assert {name.strip("./") for name in names} - {""} == {"a", "deep", "deep/b"}
    with pytest.raises(NotFound, match="no 'missing'"):
        [chunk async for chunk in machine.pull("a1", "missing")]
    for path in ("../..", "/etc/passwd"):
        with pytest.raises(ConfigurationError, match="outside"):
            [chunk async for chunk in machine.pull("a1", path)]


async def test_a_removed_job_is_gone(kind: Kind, machine: Machine) -> None:
    await machine.launch(kind.spec("echo x > kept"))
    await ended(machine)
    await machine.finish("a1")
    assert [chunk async for chunk in machine.pull("a1", "kept")]
    await machine.finish("a1")
    await machine.remove("a1")
    await machine.remove("a1")
    assert not (await machine.look("a1", 0, 10)).started
    with pytest.raises(NotFound):
        [chunk async for chunk in machine.pull("a1", "kept")]


async def test_what_a_job_leaves_behind_ends_with_it(kind: Kind, machine: Machine) -> None:
    await machine.launch(kind.spec("sleep 77777 & echo done"))
    assert (await ended(machine)).ending == Ending(0)
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "sleep 77777" not in found.splitlines()


SAVES = "sh -c 'trap \"sleep 0.5; echo 7 > saved; exit 0\" TERM; echo up; while :; do sleep 0.05; done'"


@pytest.mark.parametrize("command", [SAVES, f"exec {SAVES}", f"{SAVES} | cat", f"({SAVES}; true)", f"{SAVES} & wait"])
async def test_what_a_job_saves_when_it_is_asked_to_stop_is_there(kind: Kind, machine: Machine, command: str) -> None:
    await machine.launch(kind.spec(command, "echo never"))
    await says(machine, b"up")
    while not await machine.end("a1", abort=False):
        await asyncio.sleep(0.05)  # it said its first word before its supervisor could be told anything
    report = await ended(machine)
    assert report.ending is not None
    assert report.ending.cause == "stopped"
    assert b"never" not in report.data
    assert [chunk async for chunk in machine.pull("a1", "saved")]


async def test_set_e_counts(kind: Kind, machine: Machine) -> None:
    await machine.launch(kind.spec("set -e\nfalse\necho went on", "echo next"))
    report = await ended(machine)
    assert (report.data, report.ending) == (b"", Ending(1))


async def test_files_land_with_their_modes_and_in_a_home(kind: Kind, machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k")
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "run").write_text("#!/bin/sh\necho ran")
    (tmp_path / "run").chmod(0o750)
    archive = tmp_path / "code.tar"
    subprocess.run(["tar", "-C", tmp_path, "-cf", archive, "key", "run"], check=True)
    home = {"HOME": str(tmp_path / "home")} if kind.kind == "local" else {}
    (tmp_path / "home").mkdir()
    place = "~/dj-test" if kind.kind != "local" else str(tmp_path / "home/dj-test")
    job = kind.spec(
        "ls -l key run | cut -c1-10; ./run; cd ~/dj-test; ls -l key | cut -c1-10; pwd; rm -r ~/dj-test",
        archives=[Archive(archive, "."), Archive(archive, place)],
        env=home,
    )
    await machine.launch(job)
    report = await ended(machine)
    assert report.data.decode().splitlines()[:4] == ["-rw-------", "-rwxr-x---", "ran", "-rw-------"]
    assert report.ending == Ending(0), report.data


async def test_a_home_is_a_working_folder(kind: Kind, machine: Machine) -> None:
    await machine.launch(kind.spec('[ "$PWD" = "$(cd ~; pwd -P)" ] || [ "$PWD" = "$HOME" ]', working_dir="~"))
    report = await ended(machine)
    assert report.ending == Ending(0), report


async def test_a_job_whose_folder_was_removed_lives_no_longer_than_its_end(kind: Kind, machine: Machine) -> None:
    await machine.launch(kind.spec("setsid sleep 87654 & echo up; sleep 87654"))
    await says(machine, b"up")
    await kind.lose_folders()
    assert not (await machine.look("a1", 0, 10)).started
    await machine.finish("a1")
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "sleep 87654" not in left.splitlines()
