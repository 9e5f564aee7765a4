"""Money: before it is spent the plan, its price and guard are shown, and somebody must say yes; then what it costs and why."""

from __future__ import annotations

import json
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
        for run in connect(home).runs():
            run.stop(abort=True).wait(20)
        end_engine(home)
        process.wait(20)


def test_a_kernel_where_nobody_can_be_asked_refuses_without_yes(kernel: Kernel, home: Home) -> None:
    output = kernel.run(CELL.format(flags=""))
    assert output.status == "error"
    assert "ConfirmationNeeded: nobody can be asked here: Launch for $3.50/h, $7.00 at most?" in output.error
    assert "add -y" in output.error
    # What was asked for was shown before: offer, price, guard, and that it costs while it is off.
    assert "priced moon-1 gpu-1: $3.50/h" in output.stdout
    assert "guard: the engine ends the machine" in output.stdout
    assert "priced bills a machine that is off too" in output.stdout
    assert connect(home).runs(all=True) == []


def test_nodes_are_paid_for_each(kernel: Kernel) -> None:
    output = kernel.run(CELL.format(flags="") + "nodes: 3\n")
    assert "Launch for $10.50/h, $21.00 at most?" in output.error
    assert "3 × priced gpu-1" in output.stdout
    assert "priced moon-1 gpu-1: $3.50/h each" in output.stdout


def test_what_is_rented_is_shown_with_its_cost_and_guard_until_it_is_gone(kernel: Kernel, home: Home) -> None:
    assert kernel.run(CELL.format(flags="-y -d -o run")).status == "ok"
    client = connect(home)
    wait_until(lambda: (client.run("spend").view.cost or 0) > 0, what="the first cent")
    view = client.run("spend").view
    assert (view.backend, view.instance_type, view.price) == ("priced", "gpu-1", 3.5)
    assert view.guard is not None
    assert (view.guard.kind, view.guard.off_is_billed) == ("host", True)
    (machine,) = client.machines()
    assert (machine.runs, machine.billed, machine.user) == (["spend"], True, view.user)

    below = kernel.run("df = %dstack ps -v\nlist(df.price)")
    assert below.result == "[3.5]"
    assert "1 machine costs $3.50/h now" in below.view
    assert "guard: the engine ends the machine" in below.view
    assert machine.identity in below.view  # what -v adds
    assert "$3.50/h" in below.html
    frame = kernel.run("df = %dstack fleets\nlist(zip(df.fleet, df.host, df.backend, df.price))")
    assert frame.result == f"[('spend', '{machine.identity}', 'priced', 3.5)]"
    frame = kernel.run("from dstack_jupyter import api\nm = api.machines()\n(list(m.identity), m.rented.notna().all().item())")
    assert frame.result == f"(['{machine.identity}'], True)"
    screen = kernel.run("%dstack status")
    assert "1 machine costs $3.50/h now" in screen.result
    assert machine.identity in screen.result

    shell = [sys.executable, "-m", "dstack_jupyter.magics.cli"]
    found = subprocess.run([*shell, "status", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout)["price"] == 3.5
    found = subprocess.run([*shell, "status"], capture_output=True, text=True, check=True)
    assert machine.identity in found.stdout
    found = subprocess.run([*shell, "ps"], capture_output=True, text=True, check=True)
    assert "$3.50" in found.stdout
    assert "1 machine costs $3.50/h now" in found.stderr

    client.run("spend").stop().wait(20)
    wait_until(lambda: not client.machines(), what="the vendor's word")
    (machine,) = client.machines(all=True)
    ended = client.run("spend").view
    assert ended.cost == pytest.approx(machine.cost)
    assert ended.machines == []
    assert "$3.50/h" not in kernel.run("%dstack ps").view


@pytest.fixture
def sold_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRICED_REGIONS", "moon-0")


def test_a_run_that_finds_nothing_says_what_was_tried_and_what_came_of_it(sold_out: None, kernel: Kernel, home: Home) -> None:
    output = kernel.run(CELL.format(flags="-y"))
    assert output.status == "error"
    assert "the one offer that was tried could not be had: priced: no capacity" in output.error
    assert "%dstack events --run spend" in output.error
    assert "tried gpu-1 in moon-0 (priced): priced: no capacity" in output.view
    events = connect(home).events(run="spend")
    assert [event.message for event in events if event.action == "tried"] == [
        "tried gpu-1 in moon-0 (priced): priced: no capacity"
    ]
    assert "tried gpu-1 in moon-0" in kernel.run("df = %dstack ps -a -v").view


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
    client = connect(home)
    assert client.runs(all=True) == []
    assert kernel.run(CELL.format(flags="-y -d")).status == "ok"
    wait_until(lambda: any(machine.billed for machine in client.machines()), what="the machine")
    view = client.run("spend").view
    assert view.price is None
    assert view.cost is None
    assert "$?/h" in kernel.run("%dstack ps").view
