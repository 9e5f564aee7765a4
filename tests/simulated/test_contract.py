"""The simulated machine keeps the contract of real ones: what the models of tests/crash stand on."""

from __future__ import annotations

import pytest

from dstack_jupyter.machines.base import JobSpec, Machine
from tests.machines.conftest import spec
from tests.machines.contract import *  # noqa: F403 - its tests

from .loop import Clock
from .machine import SimulatedMachine
from .world import Host, LoopTime


class Simulated:
    kind = "simulated"

    def __init__(self, *, remote: bool) -> None:
        self._host = Host("h1", LoopTime(), remote=remote)

    def another(self) -> Machine:
        return SimulatedMachine(self._host)

    def spec(self, *commands: str, **more: object) -> JobSpec:
        return spec(*commands, **more)  # type: ignore[arg-type]


@pytest.fixture(params=["this machine", "a host"])
def kind(request: pytest.FixtureRequest) -> Simulated:
    return Simulated(remote=request.param == "a host")


@pytest.fixture
def machine(kind: Simulated) -> Machine:
    return kind.another()


async def test_a_job_whose_host_went_down_before_its_supervisor_began_begins_at_the_next_launch() -> None:
    """As launch.sh has it: what counts is ``started``. Without this the model found runs that provision for ever."""
    time = Clock()
    host = Host("h1", time, remote=True)
    job = spec("echo x")
    host.launch(job)
    host.reboot()
    time.advance(time.now + 1)
    assert host.jobs[job.attempt_id].began is None
    host.launch(job)
    host.launch(job)
    time.advance(time.now + 1)
    assert host.jobs[job.attempt_id].executions == 1
