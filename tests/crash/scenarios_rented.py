"""Stories of machines that are rented from a simulated vendor: what it does wrong, and how each must end all the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from tests.simulated.world import World

from .scenarios import LOG, UP, Scenario
from .story import apply, follow, happens, look_back, pause, says, state, stop

CLOUD: dict[str, Any] = {"backends": ["simulated"]}
AGAIN = {"on_events": ["interruption"], "duration": "1h"}
NONE = {"here sim-1", "there sim-1", "there sim-2"}
FIRST, REST = (apply("first", *UP, **CLOUD),), (stop("first"), follow("first"))


def prepared(resend: str, faults: dict[str, Any], *, restarts: bool = False) -> Callable[[World], None]:
    """``…_until`` is given in seconds from the beginning."""

    def prepare(world: World) -> None:
        world.resend, world.restarts = resend, restarts
        for name, value in faults.items():
            setattr(world.faults, name, world.time.now + value if name.endswith("_until") else copy.deepcopy(value))

    return prepare


def _all(what: Callable[[World, Any], object]) -> Callable[[World], None]:
    def happens_to_all(world: World) -> None:
        for vm in world.vms:
            if vm.gone is None:
                what(world, vm)

    return happens_to_all


off = happens("the end", _all(lambda world, vm: world.power_off(vm)))
"""What the guard of a machine does, and what some vendors do with their own spot machines."""
interrupted = happens("the end", _all(lambda world, vm: world.interrupt(vm)))
deleted = happens("the end", _all(lambda world, vm: world.take_away(vm)))


def fault(name: str, value: float) -> Any:
    """From now on; ``…_until`` for so many seconds."""

    def begin(world: World) -> None:
        setattr(world.faults, name, world.time.now + value if name.endswith("_until") else value)

    return happens(name, begin)


hour = happens("the hour", lambda world: world.time.advance(world.time.now + 3600))
"""Nobody is awake for an hour."""


def _run(
    name: str,
    *steps: Any,
    ends: str = "done",
    bodies: int = 1,
    open_end: bool = False,
    resend: str = "look",
    restarts: bool = False,
    away: float = 0.6,
    source: str = "",
    **faults: Any,
) -> Scenario:
    begin = steps or (apply("first", *LOG, **CLOUD), follow("first"), look_back)
    left = frozenset({"first"}) if open_end else frozenset()
    given = {"prepare": prepared(resend, faults, restarts=restarts), "open_end": left, "away": away, "source": source}
    return Scenario(name, begin, {"first": ends}, {"first": bodies}, **given)


def _stopped(name: str, *steps: Any, **more: Any) -> Scenario:
    """Stopped before it may have begun."""
    return _run(name, *FIRST, *steps, *REST, ends="terminated", open_end=True, **more)


TWICE = (apply("first", "./hangs-at-first", retry=AGAIN, **CLOUD), says("first", b"first\n"))
RUNNING = (*FIRST, says("first", b"up\n"))

RENTED = (
    _run("rented", source="F04 cluster-api-provider-aws#6131"),
    _stopped("rented, stopped at once", source="F22 dstack#2068"),
    _stopped("rented, stopped while it boots", pause(7), source="F32 karpenter-provider-aws#5706"),
    _run("rented, stopped while it runs", *RUNNING, *REST, ends="terminated"),
    _stopped(
        "rented, stopped while it is being ended", pause(7), stop("first"), pause(5), stop("first", abort=True), lingers=20.0
    ),
    # What becomes of a create.
    _run("a create without an answer", lost_answers=1, source="F12 comfyui-mcp#251"),
    _stopped("a create without an answer, and a stop", pause(1), lost_answers=1, hidden_for=9.0),
    _run(
        "a create without an answer, and deletes that are refused", *RUNNING, *REST, ends="terminated", lost_answers=1, busy=3,
        source="F10 skypilot#4392",
    ),
    _run("a create without an answer that comes late", late_creates=1, source="F09 skypilot#656"),
    _stopped("a late create of a run that was stopped", pause(1), late_creates=1, late_by=12.0),
    _run("by token: a create without an answer", lost_answers=1, resend="token"),
    _run("by token: a create without an answer that comes late", late_creates=1, resend="token"),
    _stopped("by token: a late create of a run that was stopped", pause(1), late_creates=1, late_by=12.0, resend="token"),
    _run("a create that makes two machines", twins=1),
    _run("a create that makes two machines, and deletes that are refused", twins=1, busy=2),
    _run("a new machine that is hidden at first", hidden_for=9.0, source="F08 skypilot#4431"),
    _run(
        "a new machine that is hidden at first, and no answer", hidden_for=9.0, lost_answers=1,
        source="F05 cluster-api-provider-aws#1769",
    ),
    _run("a thing without an answer", lost_things=2),
    _stopped(
        "a thing without an answer, and a stop", pause(1), lost_disks=1,
        source="F43 bosh-azure-cpi-release#765, F45 opencomputer#558",
    ),
    _run("no quota for the things of the first offer", no_room=1),
    _run("the first offers are sold out", sold_out={"here sim-1", "there sim-1"}),
    _run("an order that is refused", refused=1, source="F42 machine-controller-manager#73"),
    _run("every offer is sold out", ends="failed", bodies=0, sold_out=NONE),
    # What stands in the way of calls.
    _run("too many calls", limited=4),
    _run("answers that say nothing", broken=6),
    _run("no network for a while", unreachable_until=45.0),
    _run(
        "no network when it is to be ended", *RUNNING, fault("unreachable_until", 400.0), *REST, ends="terminated",
        source="F21 dstack#1551",
    ),
    _run("a wrong key at the beginning", ends="failed", bodies=0, wrong_key_until=40.0),
    _run(
        "a wrong key for a while",
        apply("first", *LOG, "sleep 30", **CLOUD), state("first", "running"), fault("wrong_key_until", 40.0), follow("first"),
        look_back,
    ),
    _run(
        "a wrong key when it is to be ended",
        *RUNNING, fault("wrong_key_until", 400.0), *REST, ends="terminated",
        source="F24 dstack#2114",
    ),
    _run(
        "the key of another account when it is to be ended",
        *RUNNING, fault("another_account_until", 1500.0), *REST, ends="terminated",
    ),
    _run(
        "the key of another account while it is not known whether it was made",
        apply("first", *LOG, **CLOUD), pause(0.5), fault("another_account_until", 30.0), follow("first"), late_creates=1,
    ),
    _run("a new key of the same account", *RUNNING, fault("renewed_key", True), *REST, ends="terminated"),
    _run(
        "a vendor that finds nothing for a while",
        apply("first", *LOG, "sleep 80", **CLOUD), state("first", "running"), fault("flicker_until", 50.0), follow("first"),
        source="F47 skypilot#10155",
    ),
    # What becomes of machines.
    _run("a machine that never answers", dead_on_arrival=1, source="F13 yomotsusaka#124, F45 opencomputer#558"),
    _run("a first boot that fails", bad_boots=1),
    _run("off under a run", *TWICE, off, follow("first"), look_back, bodies=2),
    _run("off under a run that does not try again", *RUNNING, off, follow("first"), ends="failed"),
    _run(
        "interrupted under a run", *TWICE, interrupted, follow("first"), look_back, bodies=2,
        source="F20 skypilot#7205, F31 karpenter-provider-aws#9226, F53 dstack#1358",
    ),
    _run(
        "stopped while it is tried again after an interruption",
        *TWICE, interrupted, pause(49), *REST, ends="terminated done", bodies=2, open_end=True,
        source="F23 skypilot#4410",
    ),
    _run(
        "deleted by hand under a run", *RUNNING, deleted, follow("first"), ends="failed",
        source="F26 cluster-api#5483, F27 skypilot#632",
    ),
    _run("an hour of sleep", *RUNNING, hour, *REST, ends="terminated", source="F52 dstack#1627"),
    # Crashes may put the hour behind the job's end: then its machine has powered itself off before anybody asked how it ended.
    _run("an hour of sleep while it boots", apply("first", *LOG, **CLOUD), pause(7), hour, follow("first"), ends="done failed"),
    _run("every crash takes an hour", ends="done failed", open_end=True, away=3600.0),
    # Where a machine that is off can be started, what its job left is read: nothing of a log is lost, and no end of a job.
    _run("off under a run, and started again", *RUNNING, off, follow("first"), look_back, ends="failed", restarts=True),
    _run("stopped while it is started again", *RUNNING, off, pause(33), *REST, ends="terminated failed", restarts=True),
    _run(
        "an hour of sleep in which the job ends",
        apply("first", *LOG, "sleep 60", **CLOUD), state("first", "running"), hour, follow("first"), look_back, restarts=True,
    ),
    _run("every crash takes an hour, and machines are started again", restarts=True, away=3600.0),
    _run(
        "started again at the third word", *RUNNING, off, follow("first"), ends="failed", restarts=True, not_yet=1, stays_off=1,
        source="F37 skypilot#1496",
    ),
    _run("a machine that stays off", *RUNNING, off, follow("first"), ends="failed", restarts=True, stays_off=99),
    _run("a machine that may not be started", *RUNNING, off, follow("first"), ends="failed", restarts=True, no_starts=1),
    _run(
        "no network when it is to be started",
        apply("first", *LOG, "sleep 60", **CLOUD), state("first", "running"), hour, follow("first"), restarts=True, no_way=3,
        source="F37 skypilot#1496",
    ),
    # What becomes of deletes.
    _run("deletes that are refused, and machines that linger", busy=3, lingers=70.0),
    _run("a machine that is not found while it lingers", lingers=40.0, flickers_at_the_end=2.0),
    _run("a thing that is held for a while", held=2, source="F41 libcloud#1120, F44 rancher/machine#359"),
    _run("a delete without an answer", lost_deletes=1),
    _run("a delete that comes to nothing", ignored_deletes=1),
    _run(
        "a machine that is there again after its end", apply("first", *LOG, **CLOUD), follow("first"), pause(60), returns=1,
        source="F48 nomad#12680",
    ),
    _run(
        "no sweep without a key",
        apply("first", *LOG, **CLOUD), follow("first"), fault("wrong_key_until", 900.0), pause(1200),
    ),
    # More than one.
    _run("rented nodes", apply("first", *LOG, nodes=2, **CLOUD), follow("first")),
    _run(
        "rented nodes move to another region together",
        apply("first", *LOG, nodes=2, **CLOUD), follow("first"), sold_out_after={"here sim-1": 1},
    ),
    _run(
        "four rented nodes, one of them stuck", apply("first", *LOG, nodes=4, **CLOUD), follow("first"), dead_on_arrival=1,
        source="F14 dask-cloudprovider#365, F35 ray#14264",
    ),
)  # fmt: skip
