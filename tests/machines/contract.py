"""What every machine must do, whatever is behind it. ``test_contract.py`` asks it of real ones, ``tests/simulated`` of ours.

The jobs are in the part of sh that simulated machines know (``tests/simulated/shell.py``).
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import pytest

from dstack_jupyter.machines.base import Ending, JobSpec, Machine
from dstack_jupyter.models.errors import ConfigurationError

from .conftest import ended, says, until


class Subject(Protocol):
    """A kind of machine under test; ``another()`` is a second engine's view of the same machine."""

    kind: str

    def another(self) -> Machine: ...

    def spec(self, *commands: str, **more: object) -> JobSpec: ...


async def test_log_exit_code_and_environment(kind: Subject, machine: Machine) -> None:
    value = 'it\'s "ä"\n$(x) \\ \x7f'
    await machine.launch(kind.spec('printf %s "$X"; echo err >&2', "exit 7", env={"X": value}))
    report = await ended(machine)
    assert (report.data, report.ending) == (f"{value}err\n".encode(), Ending(7))


async def test_the_log_is_read_from_any_byte_and_ends_with_its_last(kind: Subject, machine: Machine) -> None:
    await machine.launch(kind.spec("head -c 300000 /dev/zero | tr '\\0' x; printf abcdef"))
    await ended(machine)
    middle = await machine.look("a1", 299_999, 3)
    assert (middle.data, middle.ending) == (b"xab", None)
    last = await machine.look("a1", 300_005, 10)
    assert (last.data, last.ending) == (b"f", Ending(0))
    beyond = await machine.look("a1", 400_000, 10)
    assert beyond.data == b""


async def test_a_log_of_any_bytes_arrives_as_it_is(kind: Subject, machine: Machine) -> None:
    await machine.launch(kind.spec("printf '" + "".join(f"\\{number:03o}" for number in range(256)) + "'"))
    assert (await ended(machine)).data == bytes(range(256))


async def test_launching_again_runs_once(kind: Subject, machine: Machine) -> None:
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


async def test_a_stop_is_asked_and_an_abort_is_not(kind: Subject, machine: Machine) -> None:
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


async def test_who_ignores_a_stop_is_killed_after_stop_duration(kind: Subject, machine: Machine) -> None:
    await machine.launch(kind.spec("trap '' TERM; echo up; while :; do sleep 0.05; done", stop_duration=1))
    await says(machine, b"up")
    await machine.end("a1", abort=False)
    assert (await ended(machine)).ending == Ending(137, "stopped")


async def test_an_overdue_job_is_ended_by_its_machine(kind: Subject, machine: Machine) -> None:
    await machine.launch(kind.spec("echo up; sleep 600", max_duration=1))
    assert (await ended(machine)).ending == Ending(143, "max_duration")


async def test_an_end_that_comes_at_any_time_is_an_end(kind: Subject, machine: Machine) -> None:
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


async def test_output_past_the_limit_is_counted(kind: Subject, machine: Machine) -> None:
    await machine.launch(kind.spec("head -c 3000000 /dev/zero; exit 4", log_limit=1 << 20))
    await ended(machine)
    report = await machine.look("a1", 1 << 20, 100)
    assert report.ending is not None
    assert (report.ending.exit_code, report.data) == (4, b"")
    assert 0 < 3_000_000 - (1 << 20) - report.ending.dropped + 1 < 1 << 18


async def test_an_absent_shell_is_told(kind: Subject, machine: Machine) -> None:
    job = kind.spec("true", shell="/bin/nosuch")
    if kind.kind == "docker":  # only the image knows its shells
        await machine.launch(job)
        assert (await ended(machine)).ending == Ending(127)
        return
    with pytest.raises(ConfigurationError, match="no shell /bin/nosuch"):
        await machine.launch(job)


async def test_another_engine_adopts_a_running_job(kind: Subject, machine: Machine) -> None:
    await machine.launch(kind.spec("echo begun; sleep 600"))
    await says(machine, b"begun")
    await machine.close()
    successor = kind.another()
    report = await successor.look("a1", 0, 100)
    assert (report.started, report.data, report.lost, report.ending) == (True, b"begun\n", "", None)
    await successor.end("a1", abort=True)
    assert (await ended(successor)).ending == Ending(137, "aborted")
