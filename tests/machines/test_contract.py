"""What every machine must do, on each kind that there is: a process here, a process over SSH, a container over SSH."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dstack_jupyter.machines.base import Archive, Ending, JobSpec, Machine
from dstack_jupyter.machines.local import LocalMachine, clean_environment
from dstack_jupyter.models.errors import ConfigurationError, NotFound
from tests.hosts.hosts import HostSet
from tests.machines.conftest import BUSYBOX, Desk, ended, says, spec, until

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
            more["env"] = {**clean_environment(), **more.get("env", {})}  # type: ignore[dict-item]
        return spec(*commands, image=BUSYBOX if self.kind == "docker" else "", **more)

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


async def test_log_exit_code_and_environment(kind: Kind, machine: Machine) -> None:
    value = 'it\'s "ä"\n$(x) \\ \x7f'
    await machine.launch(kind.spec('printf %s "$X"; echo err >&2', "exit 7", env={"X": value}))
    report = await ended(machine)
    assert (report.data, report.ending) == (f"{value}err\n".encode(), Ending(7))


async def test_the_log_is_read_from_any_byte_and_ends_with_its_last(kind: Kind, machine: Machine) -> None:
    await machine.launch(kind.spec("head -c 300000 /dev/zero | tr '\\0' x; printf abcdef"))
    await ended(machine)
    middle = await machine.look("a1", 299_999, 3)
    assert (middle.data, middle.ending) == (b"xab", None)
    last = await machine.look("a1", 300_005, 10)
    assert (last.data, last.ending) == (b"f", Ending(0))
    beyond = await machine.look("a1", 400_000, 10)
    assert beyond.data == b""


async def test_a_log_of_any_bytes_arrives_as_it_is(kind: Kind, machine: Machine) -> None:
    await machine.launch(kind.spec('i=0; while [ $i -lt 256 ]; do printf "\\\\$(printf %03o $i)"; i=$((i+1)); done'))
    assert (await ended(machine)).data == bytes(range(256))


async def test_launching_again_runs_once(kind: Kind, machine: Machine) -> None:
    job = kind.spec("echo x; until [ -e gate ]; do sleep 0.05; done")
    await asyncio.gather(*(machine.launch(job) for _ in range(4)))
    await says(machine, b"x")
    await machine.launch(job)
    other = kind.another()
    await other.launch(job)
    assert (await says(other, b"x")).data == b"x\n"
    await machine.end("a1", abort=True)
    assert (await ended(machine)).data == b"x\n"
    await machine.launch(job)
    assert (await ended(other)).data == b"x\n"


async def test_a_stop_is_asked_and_an_abort_is_not(kind: Kind, machine: Machine) -> None:
    await machine.launch(kind.spec("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"))
    await says(machine, b"up")
    assert await machine.end("a1", abort=False)
    report = await ended(machine)
    assert report.ending == Ending(0, "stopped")
    assert report.data.endswith(b"bye\n")  # a shell may say before that its sleep was ended
    stubborn = kind.spec("trap 'echo no' TERM; echo up; while :; do sleep 0.05; done", attempt_id="a2")
    await machine.launch(stubborn)
    await says(machine, b"up", "a2")
    assert await machine.end("a2", abort=True)
    assert (await ended(machine, "a2")).ending == Ending(137, "aborted")
    assert await machine.end("a2", abort=True), "an ended job needs no telling"


async def test_who_ignores_a_stop_is_killed_after_stop_duration(kind: Kind, machine: Machine) -> None:
    await machine.launch(kind.spec("trap '' TERM; echo up; while :; do sleep 0.05; done", stop_duration=1))
    await says(machine, b"up")
    await machine.end("a1", abort=False)
    assert (await ended(machine)).ending == Ending(137, "stopped")


async def test_an_overdue_job_is_ended_by_its_machine(kind: Kind, machine: Machine) -> None:
    await machine.launch(kind.spec("echo up; sleep 600", max_duration=1))
    assert (await ended(machine)).ending == Ending(143, "max_duration")


async def test_an_end_that_comes_at_any_time_is_an_end(kind: Kind, machine: Machine) -> None:
    """Told at ever later moments of a launch, a job either never begins or ends; it never runs on."""
    for number in range(6):
        attempt = f"b{number}"
        launch = asyncio.ensure_future(machine.launch(kind.spec("echo up; sleep 600", attempt_id=attempt)))
        await asyncio.sleep(0.01 * number)  # the moments to try, not a wait for anything
        while not await machine.end(attempt, abort=True):
            await asyncio.sleep(0.05)
        await launch
        while not await machine.end(attempt, abort=True):
            await asyncio.sleep(0.05)
        report = await until(machine, lambda report: report.ending or (not report.started and not report.preparing), attempt)
        assert report.ending is None or report.ending.exit_code == 137


async def test_output_past_the_limit_is_counted(kind: Kind, machine: Machine) -> None:
    await machine.launch(kind.spec("head -c 3000000 /dev/zero; exit 4", log_limit=1 << 20))
    await ended(machine)
    report = await machine.look("a1", 1 << 20, 100)
    assert report.ending is not None
    assert (report.ending.exit_code, report.data) == (4, b"")
    assert 0 < 3_000_000 - (1 << 20) - report.ending.dropped + 1 < 1 << 18


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


async def test_an_absent_shell_is_told(kind: Kind, machine: Machine) -> None:
    job = kind.spec("true", shell="/bin/nosuch")
    if kind.kind == "docker":  # only the image knows its shells
        await machine.launch(job)
        assert (await ended(machine)).ending == Ending(127)
        return
    with pytest.raises(ConfigurationError, match="no shell /bin/nosuch"):
        await machine.launch(job)


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


async def test_another_engine_adopts_a_running_job(kind: Kind, machine: Machine) -> None:
    await machine.launch(kind.spec("echo begun; sleep 600"))
    await says(machine, b"begun")
    await machine.close()
    successor = kind.another()
    report = await successor.look("a1", 0, 100)
    assert (report.started, report.data, report.lost, report.ending) == (True, b"begun\n", "", None)
    await successor.end("a1", abort=True)
    assert (await ended(successor)).ending == Ending(137, "aborted")
