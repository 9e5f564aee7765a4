"""Before money is spent: the plan, its price and guard are shown, and somebody must say yes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_jupyter.client import connect
from dstack_jupyter.models.home import Home
from tests.conftest import end_engine, wait_until
from tests.magics.test_kernel import Kernel

ROOT = Path(__file__).resolve().parents[2]
ENGINE = """
from dstack_jupyter.backends import registry
registry.register("priced", registry.Entry("Priced", "vm", "tests.magics.priced:PricedBackend"))
from dstack_jupyter.engine.__main__ import main
main()
"""
CELL = """%%dstack apply -n spend -b priced {flags}
type: task
commands: ["echo spent"]
max_duration: 2h
"""


@pytest.fixture
def kernel(home: Home, tmp_path: Path) -> Iterator[Kernel]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", ENGINE], env=env) as process:
        wait_until(home.endpoint.exists, what="the engine")
        found = Kernel(tmp_path)
        found.run("%load_ext dstack_jupyter")
        yield found
        found.stop()
        end_engine(home)
        process.wait(20)


def test_a_kernel_where_nobody_can_be_asked_refuses_without_yes(kernel: Kernel, home: Home) -> None:
    output = kernel.run(CELL.format(flags=""))
    assert output.status == "error"
    assert "ConfirmationNeeded: nobody can be asked here: Launch for $3.50/h, $7.00 at most?" in output.error
    assert "add -y" in output.error
    # What was asked for was shown before: offer, price, guard.
    assert "priced moon-1 gpu-1: $3.50/h" in output.stdout
    assert "guard: the engine ends the machine" in output.stdout
    assert connect(home).runs(all=True) == []


def test_yes_launches_and_the_cost_is_counted(kernel: Kernel, home: Home) -> None:
    output = kernel.run(CELL.format(flags="-y"))
    assert output.status == "ok", output.error
    view = connect(home).run("spend").view
    assert (view.backend, view.instance_type, view.price) == ("priced", "gpu-1", 3.5)
    assert view.cost > 0
    assert view.guard is not None
    assert view.guard.kind == "engine"


def test_a_price_above_max_price_is_no_offer(kernel: Kernel) -> None:
    output = kernel.run(CELL.format(flags="-y --max-price 1"))
    assert "NoCapacity: no offer fits (priced: none of its offers passes `max_price`)" in output.error


@pytest.fixture
def nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRICED_PRICE", "nan")


def test_a_price_that_nobody_knows_is_asked_for_like_any(nobody_knows: None, kernel: Kernel, home: Home) -> None:
    output = kernel.run(CELL.format(flags=""))
    assert "nobody can be asked here: Launch for a price that is not known?" in output.error
    assert "guard: the engine ends the machine" in output.stdout
    assert "passes `max_price`" in kernel.run(CELL.format(flags="-y --max-price 1000")).error
    assert connect(home).runs(all=True) == []
    output = kernel.run(CELL.format(flags="-y"))
    assert output.status == "ok", output.error
    assert connect(home).run("spend").view.price is None
