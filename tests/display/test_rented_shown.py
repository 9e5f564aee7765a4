"""Rented machines as people see them: what they cost now, what ends them, which are stuck, what was tried."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import select
import struct
import termios
from typing import Any
from xml.dom.minidom import parseString

from dstack_jupyter.display.logview import TerminalView
from dstack_jupyter.display.machines import MOST_TRIED, below, stuck_lines, total_line, tried_lines
from dstack_jupyter.display.status import print_status, status_html, status_lines
from dstack_jupyter.display.terminal import print_table
from dstack_jupyter.display.words import run_line
from dstack_jupyter.models.backends import BackendView
from dstack_jupyter.models.engine import EngineInfo
from dstack_jupyter.models.frames import RunFrame
from dstack_jupyter.models.instances import Guard, InstanceView
from dstack_jupyter.models.runs import Condition, RunView
from dstack_jupyter.models.states import InstanceState, RunState
from dstack_jupyter.models.status import Status

NOW = 1_800_000_000.0
GUARD = Guard(kind="host", text="a timer on the machine", off_is_billed=True)


def machine(number: int = 1, **more: Any) -> InstanceView:
    values: dict[str, Any] = {
        "id": f"{number:016x}", "identity": f"dj-a1b2c3d4-{number:012x}", "fleet": "train", "runs": ["train"], "backend": "sky",
        "region": "nyc2", "instance_type": "gpu-1", "state": InstanceState.BUSY, "price": 2.0, "cost": 1.0, "guard": GUARD,
        "created_at": NOW - 3600 + number, "rented_at": NOW - 1800,
    }  # fmt: skip
    return InstanceView(**{**values, **more})


OFF = machine(
    3, state=InstanceState.TERMINATING, stuck="off, still billed", stuck_since=NOW - 900, console="https://sky.example/3"
)
"""A machine that its guard has powered off."""


def run(**more: Any) -> RunView:
    return RunView(
        **{"id": "r", "project": "main", "name": "train", "state": RunState.SUBMITTED, "submitted_at": NOW - 60, **more}
    )


def status(*machines: InstanceView, **more: Any) -> Status:
    engine = EngineInfo(
        api_version=1, version="1", pid=42, host="server", home="/h", installation="a1b2", started_at=NOW - 7200,
        problems=["the disk is nearly full"],
    )  # fmt: skip
    return Status(**{"now": NOW, "engine": engine, "backends": [], "machines": machines, "runs": [], **more})


def test_the_total_is_of_what_is_billed_now_and_never_hides_an_unknown_price() -> None:
    assert total_line([machine(1), machine(2, price=0.5)]) == "2 machines cost $2.50/h now"
    assert total_line([machine(1)]) == "1 machine costs $2.00/h now"
    assert total_line([machine(1), machine(2, price=None)]) == "2 machines cost $2.00/h now and $?/h for 1 of them"
    assert "$?/h" in total_line([machine(1, price=None)])
    assert total_line([machine(1, rented_at=None)]) == "no rented machine costs anything now; 1 more is asked for"
    assert "$2.00/h" in total_line([OFF])
    assert total_line([machine(1, stuck="off")]).startswith("no rented machine costs")


def test_below_a_list_stand_the_total_the_guard_and_what_is_stuck() -> None:
    assert below([], NOW) == []
    total, guard, stuck = below([machine(1), OFF], NOW)
    assert total == "2 machines cost $4.00/h now"
    assert guard == "guard: a timer on the machine"
    assert stuck.startswith(OFF.identity)
    other = machine(2, runs=["eval"], guard=Guard(kind="engine", text="the engine only"))
    assert below([machine(1), other], NOW)[1:] == [
        "guard of train: a timer on the machine",
        "guard of eval: the engine only",
    ]


def test_a_stuck_machine_says_since_when_its_price_and_what_to_do() -> None:
    (line,) = stuck_lines([machine(1), OFF], NOW)
    assert "$2.00/h" in line
    assert "off, still billed for 15 min" in line
    assert "https://sky.example/3" in line
    unknown = machine(4, price=None, rented_at=None, stuck="not known whether it was made", stuck_since=NOW - 1200)
    (line,) = stuck_lines([unknown], NOW)
    assert "$?/h" in line
    assert "the console of sky shows this name" in line


def test_of_stuck_machines_the_longest_comes_first() -> None:
    longer = machine(9, stuck="does not end", stuck_since=NOW - 5000)
    first, second = stuck_lines([machine(1), OFF, longer], NOW)
    assert first.startswith(longer.identity)
    assert second.startswith(OFF.identity)


def test_status_is_one_screen_with_what_is_stuck_first() -> None:
    conditions = [Condition(type="unreachable", since=NOW - 60, message="no route")]
    bad = BackendView(backend="rain", kind="vm", configured=True, status="in trouble", last_error="the key is not known")
    found = status(
        machine(1, message="its first boot goes on"),
        OFF,
        backends=[bad],
        runs=[run(state=RunState.RUNNING, conditions=conditions)],
    )
    text = "\n".join(status_lines(found))
    assert "a Jupyter server (pid 42), up for 2 h" in text
    assert "the disk is nearly full" in text
    assert "backends: rain: the key is not known" in text
    assert "2 machines cost $4.00/h now (1 busy, 1 terminating)" in text
    assert text.index(OFF.identity) < text.index(machine(1).identity)
    assert f"{machine(1).identity}: its first boot goes on" in text
    assert "run train: unreachable for 1 min: no route" in text
    assert "backends: none in trouble" in "\n".join(status_lines(status()))


def test_status_as_json_has_the_total_or_says_that_it_is_not_known() -> None:
    data = json.loads(json.dumps(status(machine(1), OFF).data()))
    assert (data["price"], data["unknown_prices"], data["states"]) == (4.0, 0, {"busy": 1, "terminating": 1})
    assert [each["stuck"] for each in data["machines"]] == ["off, still billed", ""]
    data = status(machine(1), machine(2, price=None)).data()
    assert (data["price"], data["known_price"], data["unknown_prices"]) == (None, 2.0, 1)


def test_what_a_vendor_says_is_text_in_every_face() -> None:
    evil = machine(1, stuck="does not end", stuck_since=NOW - 900, message="<script>alert(1)</script>\x1b[2J", console="<b>")
    found = status(evil)
    assert "\x1b" not in "\n".join(status_lines(found))
    html = status_html(found)
    assert "<script" not in html
    assert "\x1b" not in html
    parseString(html)


def test_a_terminal_has_colours_for_what_is_off_and_a_pipe_has_none() -> None:
    out = io.StringIO()
    print_status(status(machine(1), OFF), out)
    assert "\x1b" not in out.getvalue()
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    with os.fdopen(slave, "w") as file:
        print_status(status(machine(1), OFF), file)
        file.flush()
        shown = ""
        while select.select([master], [], [], 0.1)[0]:  # a terminal hands over a piece at a time
            shown += os.read(master, 1 << 16).decode()
    os.close(master)
    assert "\x1b[1;31m" in shown
    assert machine(1).identity in shown  # a name that is broken over lines cannot be copied
    assert "color:" in status_html(status(OFF)).split("off, still billed")[0]


def test_an_unknown_price_of_a_rented_machine_is_a_question_mark_in_a_table() -> None:
    out = io.StringIO()
    rows = [{"name": "a", "backend": "sky", "price": None, "cost": float("nan")}, {"name": "b", "backend": "ssh", "price": None}]
    print_table(["name", "backend", "price", "cost"], rows, out)
    _, first, second = out.getvalue().splitlines()
    assert first.split() == ["a", "sky", "?", "?"]
    assert second.split() == ["b", "ssh"]


def test_a_run_of_unknown_cost_says_so_and_so_does_one_whose_machine_is_off() -> None:
    line = run_line(run(backend="sky", instance_type="gpu-1", price=None, cost=None, machines=[OFF]), NOW)
    assert "cost ?" in line
    assert "$0" not in line
    assert f"{OFF.identity}: off, still billed" in line


def test_a_terminal_prints_each_try_once_as_it_comes() -> None:
    err = io.StringIO()
    view = TerminalView(run(message="looking"), io.StringIO(), err)
    tries = [f"tried gpu-{number} in nyc2 (sky): no capacity\x1b[2J" for number in range(3)]
    for count in (1, 1, 3):
        view.feed(RunFrame(run=run(message="looking", tried=tries[:count])))
    view.feed(RunFrame(run=run(message="looking", tried=["tried again"])))  # a further submission begins anew
    said = err.getvalue()
    assert [said.count(f"train: tried gpu-{number} in nyc2 (sky): no capacity\n") for number in range(3)] == [1, 1, 1]
    assert "train: tried again\n" in said
    assert "\x1b" not in said


def test_many_tries_are_counted() -> None:
    tries = [f"tried {number}" for number in range(MOST_TRIED + 3)]
    assert tried_lines(tries) == ["… 3 earlier tries", *tries[3:]]
    assert tried_lines(tries[:2]) == tries[:2]
