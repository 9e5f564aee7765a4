"""The stories that the walker crashes: what happens, and how it must end whatever crashes on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulated import shell
from tests.simulated.world import Job, World

from .story import Step, apply, fleet, folders, follow, give_back, happens, look_back, pause, restart, says, state, stop, upload


@dataclass(frozen=True)
class Scenario:
    """``ends``: the state of each run at the end. ``bodies``: how often each of its jobs is executed.

    ``open_end`` names runs that may never have been executed, since they were stopped: at most once, then.
    """

    name: str
    steps: tuple[Step, ...]
    ends: dict[str, str]
    bodies: dict[str, int]
    prepare: Callable[[World], object] = lambda _: None
    open_end: frozenset[str] = field(default=frozenset())
    away: float = 0.6
    """Virtual seconds between a crash and the next engine."""
    source: str = ""
    """Where others had this failure, by its numbers in docs/failures.md."""


def attempts_before(job: Job) -> int:
    """How many attempts of the same job this world has seen begin, this one not counted."""
    mine = job.spec.env["DSTACK_JOB_ID"]
    everywhere = [each for host in WORLDS[-1].hosts.values() for each in host.everything()]
    return sum(each.executions for each in everywhere if each.spec.env.get("DSTACK_JOB_ID") == mine) - 1


WORLDS: list[World] = []


def programs(world: World) -> None:
    """What jobs can call: to behave otherwise at their first attempt than later."""
    WORLDS[:] = [world]
    second = [shell.Say(b"second time\n"), shell.Exit(0)]
    world.programs["fails-at-first"] = lambda job, _: second if attempts_before(job) else [shell.Say(b"first\n"), shell.Exit(1)]
    world.programs["hangs-at-first"] = lambda job, _: (
        second if attempts_before(job) else [shell.Say(b"first\n"), shell.Sleep(None)]
    )
    world.programs["master-fails"] = lambda job, _: (
        [shell.Say(b"master\n"), shell.Sleep(1.0), shell.Exit(7)]
        if job.spec.env["DSTACK_NODE_RANK"] == "0"
        else [shell.Say(b"worker\n"), shell.Sleep(None)]
    )


LOG = ("echo one", "sleep 0.7", "echo two", "sleep 0.4", "printf 'no newline at the end'")
UP = ("trap 'echo bye; exit 0' TERM", "echo up", "while :; do sleep 0.05; done")
DEAF = ("trap '' TERM", "echo up", "while :; do sleep 0.05; done")
DESK = {"fleets": ["desk"], "backends": ["ssh"]}


def _full(world: World) -> None:
    world.host("local", remote=False).log_room = 1000


def _limited(world: World) -> None:
    world.host("h1").lose_launches = 2


def _reboot(world: World) -> None:
    world.host("h1").reboot()


def _cut(world: World) -> None:
    world.host("h1").reachable = False
    world.time.at(world.time.now + 150.0, lambda: setattr(world.host("h1"), "reachable", True))


def _sleep(world: World) -> None:
    """A laptop that is closed for eight days."""
    world.time.advance(world.time.now + 8 * 86400)


def _kill(world: World) -> None:
    for job in world.jobs():
        job.lose()


OWN = (
    Scenario("task", (upload, apply("first", *LOG, code=True), follow("first"), look_back), {"first": "done"}, {"first": 1}),
    Scenario("fails", (apply("first", "echo x", "exit 3"), follow("first"), look_back), {"first": "failed"}, {"first": 1}),
    Scenario(
        "stop",
        (apply("first", *UP), says("first", b"up\n"), stop("first"), follow("first"), look_back),
        {"first": "terminated"},
        {"first": 1},
    ),
    Scenario(
        "abort",
        (apply("first", *DEAF), state("first", "running"), stop("first"), stop("first", abort=True), follow("first")),
        {"first": "terminated"},
        {"first": 1},
    ),
    Scenario(
        "stop at once",
        (apply("first", "sleep 600"), stop("first"), follow("first")),
        {"first": "terminated"},
        {"first": 1},
        open_end=frozenset({"first"}),
    ),
    Scenario(
        "overdue",
        (apply("first", "echo up", "sleep 600", max_duration="5s"), follow("first")),
        {"first": "terminated"},
        {"first": 1},
    ),
    Scenario(
        "retry",
        (apply("first", "./fails-at-first", retry={"on_events": ["error"], "duration": "1h"}), follow("first"), look_back),
        {"first": "done"},
        {"first": 2},
    ),
    Scenario(
        "stop between two tries",
        (
            apply("first", "./fails-at-first", retry={"on_events": ["error"], "duration": "1h"}),
            state("first", "pending", "done"),
            stop("first"),
            follow("first"),
        ),
        {"first": "terminated done"},
        {"first": 2},
        open_end=frozenset({"first"}),
    ),
    Scenario(
        "schedule",
        (
            apply("first", "echo tick", schedule={"cron": "* * * * *"}),
            says("first", b"tick\n"),
            state("first", "pending"),
            stop("first"),
            follow("first"),
        ),
        {"first": "terminated"},
        {"first": 99},
        open_end=frozenset({"first"}),
    ),
    Scenario(
        "full disk",
        (apply("first", "head -c 3000 /dev/zero", "sleep 1", "head -c 2000 /dev/zero", "exit 4"), follow("first"), look_back),
        {"first": "failed"},
        {"first": 1},
        prepare=_full,
    ),
    Scenario(
        "killed",
        (apply("first", "echo up", "sleep 600"), says("first", b"up\n"), happens("the kill", _kill), follow("first")),
        {"first": "failed"},
        {"first": 1},
    ),
    Scenario(
        "host",
        (
            fleet("desk", "h1", blocks=2),
            apply("first", *LOG, **DESK),
            apply("other", *LOG, **DESK),
            follow("first"),
            follow("other"),
            give_back("desk"),
        ),
        {"first": "done", "other": "done"},
        {"first": 1, "other": 1},
    ),
    Scenario(
        "stop at once on a host",
        (fleet("desk", "h1"), apply("first", "sleep 600", **DESK), stop("first"), follow("first"), give_back("desk")),
        {"first": "terminated"},
        {"first": 1},
        open_end=frozenset({"first"}),
    ),
    Scenario(
        "lost answers",
        (fleet("desk", "h1"), apply("first", *LOG, **DESK), follow("first"), look_back, give_back("desk")),
        {"first": "done"},
        {"first": 1},
        prepare=_limited,
    ),
    Scenario(
        "a week later",
        (
            fleet("desk", "h1"),
            upload,
            apply("first", "echo one", code=True, **DESK),
            follow("first"),
            apply("other", "true"),
            follow("other"),
            folders,
            happens("a week asleep", _sleep),
            pause(100),
            happens("another week asleep", _sleep),
            pause(100),
            give_back("desk"),
        ),
        {"first": "done", "other": "done"},
        {"first": 1, "other": 1},
    ),
    Scenario(
        "host away",
        (
            fleet("desk", "h1"),
            apply("first", *UP, **DESK),
            says("first", b"up\n"),
            happens("the cut", _cut),
            stop("first"),
            follow("first"),
        ),
        {"first": "terminated"},
        {"first": 1},
    ),
    Scenario(
        "given back while it was away",
        (
            fleet("desk", "h1"),
            happens("the cut", _cut),
            give_back("desk"),
            pause(200),
            fleet("lab", "h1"),
            give_back("lab"),
        ),
        {},
        {},
    ),
    Scenario(
        "reboot",
        (
            fleet("desk", "h1"),
            apply("first", "./hangs-at-first", retry={"on_events": ["interruption"], "duration": "1h"}, **DESK),
            says("first", b"first\n"),
            happens("the reboot", _reboot),
            follow("first"),
            look_back,
        ),
        {"first": "done"},
        {"first": 2},
    ),
    Scenario(
        "nodes",
        (
            fleet("desk", "h1", "h2"),
            apply("first", *LOG, nodes=2, startup_order="workers-first", **DESK),
            follow("first"),
            give_back("desk"),
        ),
        {"first": "done"},
        {"first": 1},
    ),
    Scenario(
        "too few hosts",
        (fleet("desk", "h1"), apply("first", *LOG, nodes=2, **DESK), follow("first"), look_back, give_back("desk")),
        {"first": "failed"},
        {"first": 0},
    ),
    Scenario(
        "restart",
        (apply("first", *LOG), restart, says("first", b"one\n"), restart, follow("first"), look_back),
        {"first": "done"},
        {"first": 1},
    ),
    Scenario(
        "a node fails",
        (fleet("desk", "h1", "h2"), apply("first", "./master-fails", nodes=2, **DESK), follow("first"), pause(5)),
        {"first": "failed"},
        {"first": 1},
        open_end=frozenset({"first"}),  # the worker may be ended before it begins
    ),
    Scenario(
        "one host, two runs",
        (
            fleet("desk", "h1"),
            apply("first", *LOG, **DESK),
            apply("other", *LOG, retry={"on_events": ["no-capacity"], "duration": "1h"}, **DESK),
            follow("other"),
            follow("first"),
        ),
        {"first": "done", "other": "done"},
        {"first": 1, "other": 1},
    ),
)
