"""Stories of machines that are rented from a simulated vendor: what it does wrong, and how each must end all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.simulated.world import World

from .scenarios import LOG, UP, Scenario
from .story import apply, follow, happens, look_back, pause, says, state, stop

CLOUD: dict[str, Any] = {"backends": ["simulated"]}
AGAIN = {"on_events": ["interruption"], "duration": "1h"}


def _faults(**values: Any) -> Callable[[World], None]:
    def prepare(world: World) -> None:
        for name, value in values.items():
            setattr(world.faults, name, value)

    return prepare


def _power_off(world: World) -> None:
    """What the guard of a machine does, and what a vendor does with its own spot machines."""
    for vm in world.vms:
        if vm.gone is None:
            world.power_off(vm)


def _taken_away(world: World) -> None:
    """Somebody deletes the machine in the vendor's console."""
    for vm in world.vms:
        world.end(vm)


def _wrong_key(world: World) -> None:
    world.faults.wrong_key_until = world.time.now + 40.0


def _flicker(world: World) -> None:
    world.faults.flicker_until = world.time.now + 50.0


def _an_hour(world: World) -> None:
    world.time.advance(world.time.now + 3600)


def _run(name: str, *steps: Any, ends: str = "done", bodies: int = 1, open_end: bool = False, **faults: Any) -> Scenario:
    begin = steps or (apply("first", *LOG, **CLOUD), follow("first"), look_back)
    left = frozenset({"first"}) if open_end else frozenset()
    return Scenario(name, begin, {"first": ends}, {"first": bodies}, prepare=_faults(**faults), open_end=left)


RENTED = (
    _run("rented"),
    _run(
        "rented, stopped at once", apply("first", *UP, **CLOUD), stop("first"), follow("first"), ends="terminated", open_end=True,
    ),
    _run(
        "rented, stopped while it boots",
        apply("first", *UP, **CLOUD), pause(7), stop("first"), follow("first"), ends="terminated", open_end=True,
    ),
    _run(
        "rented, stopped while it runs",
        apply("first", *UP, **CLOUD), says("first", b"up\n"), stop("first"), follow("first"), ends="terminated",
    ),
    _run("a create without an answer", lost_answers=1),
    _run("a create without an answer that comes late", late_creates=1),
    _run(
        "a late create of a run that was stopped",
        apply("first", *UP, **CLOUD), pause(1), stop("first"), follow("first"),
        ends="terminated", open_end=True, late_creates=1, late_by=12.0,
    ),
    _run("a new machine that is hidden at first", hidden_for=9.0),
    _run("the first offers are sold out", sold_out={"here sim-1", "there sim-1"}),
    _run("every offer is sold out", ends="failed", bodies=0, sold_out={"here sim-1", "there sim-1", "there sim-2"}),
    _run("a machine that never answers", dead_on_arrival=1),
    _run("too many calls", limited=4),
    _run("deletes that are refused, and machines that linger", busy=3, lingers=70.0),
    _run(
        "switched off under a run",
        apply("first", "./hangs-at-first", retry=AGAIN, **CLOUD), says("first", b"first\n"), happens("the end", _power_off),
        follow("first"), look_back, bodies=2,
    ),
    _run(
        "switched off under a run that does not try again",
        apply("first", *UP, **CLOUD), says("first", b"up\n"), happens("the end", _power_off), follow("first"), ends="failed",
    ),
    _run(
        "deleted by hand under a run",
        apply("first", *UP, **CLOUD), says("first", b"up\n"), happens("the end", _taken_away), follow("first"), ends="failed",
    ),
    _run(
        "a wrong key for a while",
        apply("first", *LOG, "sleep 30", **CLOUD), state("first", "running"), happens("the key", _wrong_key), follow("first"),
        look_back,
    ),
    _run(
        "a vendor that finds nothing for a while",
        apply("first", *LOG, "sleep 80", **CLOUD), state("first", "running"), happens("the flicker", _flicker), follow("first"),
    ),
    _run(
        "an hour of sleep",
        apply("first", *UP, **CLOUD), says("first", b"up\n"), happens("the hour", _an_hour), stop("first"), follow("first"),
        ends="terminated",
    ),
    _run("rented nodes", apply("first", *LOG, nodes=2, **CLOUD), follow("first")),
    _run(
        "rented nodes move to another region together",
        apply("first", *LOG, nodes=2, **CLOUD), follow("first"), sold_out_after={"here sim-1": 1},
    ),
)  # fmt: skip
