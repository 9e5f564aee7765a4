"""The simulated machine keeps the contract of real ones: what the models of tests/crash stand on."""

from __future__ import annotations

import pytest

from dstack_jupyter.machines.base import JobSpec, Machine
from tests.machines.conftest import spec
from tests.machines.contract import *  # noqa: F403 - its tests

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
