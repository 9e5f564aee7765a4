"""A Hypothesis machine over the engine: any order of what users do and what goes wrong, with what is promised after each step.

``DJ_MODEL_EXAMPLES`` and ``DJ_MODEL_STEPS`` make it long (``make soak``), ``DJ_SEED`` repeats one, ``DJ_MODEL_SHRINK=1``
makes a failure short, which takes minutes.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.models.fleets_view import FleetRequest
from dstack_jupyter.models.home import ENV_HOME
from dstack_jupyter.models.runs import ApplyRequest, Context
from tests.simulated.life import Life
from tests.simulated.loop import Clock, Crashed
from tests.simulated.world import World

from .judge import ENDS, Judge
from .scenarios import DEAF, DESK, LOG, UP, programs
from .stores import SQLite, Store
from .trial import left_over

EXAMPLES = int(os.environ.get("DJ_MODEL_EXAMPLES", "25"))
STEPS = int(os.environ.get("DJ_MODEL_STEPS", "20"))
PATIENCE = 3 * 3600.0
HOSTS = ("h1", "h2")

JOBS = {
    "short": LOG,
    "fails": ("echo x", "exit 3"),
    "asks": UP,
    "deaf": DEAF,
    "long": ("echo up", "sleep 90", "echo end"),
    "again": ("./fails-at-first",),
    "loud": ("head -c 70000 /dev/zero", "sleep 1", "head -c 70000 /dev/zero", "echo"),
}
PLACES: dict[str, dict[str, Any]] = {
    "local": {"backends": ["local"]},
    "desk": DESK,
    "both": {**DESK, "nodes": 2},
    "cloud": {"backends": ["simulated"]},
    "nodes of a cloud": {"backends": ["simulated"], "nodes": 2},
}
VENDOR: dict[str, float] = {
    **dict.fromkeys(("lost_answers", "late_creates", "twins", "refused", "limited", "broken", "lost_things", "no_room"), 1),
    **dict.fromkeys(("busy", "lost_deletes", "ignored_deletes", "returns", "dead_on_arrival", "bad_boots"), 1),
    "hidden_for": 9.0,
    "lingers": 40.0,
    "flicker_until": 20.0,
    "wrong_key_until": 60.0,
    "unreachable_until": 60.0,
}
"""Faults of ``tests.simulated.faults``: counted ones are whole numbers, the others seconds."""
MACHINE_GOES = ("power_off", "interrupt", "take_away")
STORES: list[Store] = []


class EngineMachine(RuleBasedStateMachine):
    """One world, one store, one engine after another."""

    names = Bundle("names")

    @initialize(restarts=st.booleans())
    def begin(self, restarts: bool) -> None:
        self.store = STORES[-1]
        self.home = self.store.renew()
        self.world = World(Clock(), restarts=restarts)
        programs(self.world)
        self.judge = Judge(self.store, self.world)
        self.life: Life | None = None
        self.count = 0
        self.crashes = 0
        self.do(self.desk)

    @staticmethod
    async def desk(engine: Engine) -> None:
        given = {"type": "fleet", "name": "desk", "ssh_config": {"user": "u", "identity_file": "key", "hosts": list(HOSTS)}}
        await engine.service.fleets.apply(FleetRequest(configuration=given), user="ada")

    def do(self, what: Callable[[Engine], Awaitable[Any]], *, crash_in: int = 0) -> Any:
        """Ask one engine after another until one lives long enough to answer. ``crash_in``: steps of the loop until it dies."""
        while True:
            if self.life is None:
                self.life = Life(self.home, self.world)
            if crash_in:
                self.life.loop.crash_after_steps = self.life.loop.steps + crash_in
            try:
                found = self.life.run(what)
                self.life.loop.crash_after_steps = 0
                return found
            except Crashed:
                self.bury()
                crash_in = 0

    def bury(self) -> None:
        if self.life is not None:
            self.life.bury()
            self.life = None
            self.crashes += 1
        self.judge.between()

    @rule(target=names, job=st.sampled_from(sorted(JOBS)), place=st.sampled_from(sorted(PLACES)), crash_in=st.integers(0, 60))
    def submit(self, job: str, place: str, crash_in: int) -> str:
        self.count += 1
        name = f"run-{self.count}"
        more = {"retry": {"on_events": ["error", "interruption", "no-capacity"], "duration": "10m"}} if job == "again" else {}
        configuration = {"type": "task", "name": name, "shell": "sh", "commands": list(JOBS[job]), **PLACES[place], **more}
        request = ApplyRequest(configuration=configuration, request_key=name, context=Context(cwd="/"))

        async def apply(engine: Engine) -> Any:
            return await engine.service.apply(request, user="ada")

        first = self.do(apply, crash_in=crash_in)
        assert self.do(apply).id == first.id, "one request, two runs"
        return name

    submit_another = submit_a_third = submit

    @rule(name=names, abort=st.booleans(), crash_in=st.integers(0, 40))
    def stop(self, name: str, abort: bool, crash_in: int) -> None:
        async def ask(engine: Engine) -> Any:
            return await engine.service.stop(name, project="main", abort=abort, user="ada")

        view = self.do(ask, crash_in=crash_in)
        assert view.state not in ("running", "pending", "submitted", "provisioning"), f"a stopped run is {view.state}"

    @rule(seconds=st.sampled_from([0.05, 0.3, 1.0, 5.0, 31.0, 120.0]))
    def time_passes(self, seconds: float) -> None:
        async def sleep(_: Engine) -> None:
            await asyncio.sleep(seconds)

        self.do(sleep)

    @rule()
    def crash(self) -> None:
        self.bury()

    @rule(steps=st.integers(1, 400))
    def crash_soon(self, steps: int) -> None:
        async def sleep(_: Engine) -> None:
            await asyncio.sleep(40)

        self.do(sleep, crash_in=steps)

    @rule()
    def restart(self) -> None:
        if self.life is not None:
            self.life.end()
            self.life = None

    @rule(seconds=st.sampled_from([1.0, 20.0, 700.0]))
    def nobody_is_there(self, seconds: float) -> None:
        """No engine runs for a while."""
        self.bury()
        self.world.time.advance(self.world.time.now + seconds)

    @rule(host=st.sampled_from(HOSTS))
    def cut(self, host: str) -> None:
        self.world.host(host).reachable = False

    @rule(host=st.sampled_from(HOSTS))
    def mend(self, host: str) -> None:
        self.world.host(host).reachable = True

    @rule(host=st.sampled_from(HOSTS))
    def reboot(self, host: str) -> None:
        self.world.host(host).reboot()

    @rule(host=st.sampled_from(HOSTS), count=st.integers(1, 2))
    def lose_answers(self, host: str, count: int) -> None:
        self.world.host(host).lose_launches = count

    @rule(fault=st.sampled_from([*VENDOR, *MACHINE_GOES, "sold_out"]), count=st.integers(1, 2))
    def vendor(self, fault: str, count: int) -> None:
        """What goes wrong at the vendor from now on, or with one of its machines now."""
        if fault in MACHINE_GOES:
            for vm in [vm for vm in self.world.vms if vm.gone is None and not vm.ending][:1]:
                getattr(self.world, fault)(vm)
        elif fault == "sold_out":
            self.world.faults.sold_out = {"here sim-1"} if count == 1 else set()
        elif fault.endswith("_until"):
            setattr(self.world.faults, fault, self.world.time.now + VENDOR[fault] * count)
        elif isinstance(VENDOR[fault], float):
            setattr(self.world.faults, fault, VENDOR[fault] * (count - 1))
        else:
            setattr(self.world.faults, fault, count)

    @rule()
    def look(self) -> None:
        async def views(engine: Engine) -> Any:
            return await engine.service.runs(project="main", all=True)

        before = {row["id"]: row["state"] for row in self.store.rows("SELECT id, state FROM runs")}
        found = {view.id: view.state for view in self.do(views)}
        assert set(found) == set(before)
        assert all(found[id] == state for id, state in before.items() if state in ENDS["runs"])

    @invariant()
    def promised(self) -> None:
        if hasattr(self, "judge"):
            self.judge.between()
            assert not self.judge.breaches, self.judge.breaches

    def teardown(self) -> None:
        if not hasattr(self, "judge"):
            return
        for host in self.world.hosts.values():
            # One name may have had two machines (`twins`): the host is there while one of them is.
            machines = [vm for vm in self.world.vms if vm.identity == host.name]
            host.reachable = not machines or any(not vm.lost and vm.gone is None for vm in machines)
            host.lose_launches = 0

        async def settle(engine: Engine) -> None:
            for view in await engine.service.runs(project="main"):
                if view.configuration["commands"] in (list(UP), list(DEAF)):
                    await engine.service.stop(view.id, project="main", abort=True, user="ada")
            end = asyncio.get_running_loop().time() + PATIENCE
            while engine.unfinished() and asyncio.get_running_loop().time() < end:
                await asyncio.sleep(2)
            await asyncio.sleep(70)
            while left_over(self.store, self.world) and asyncio.get_running_loop().time() < end:
                await asyncio.sleep(60)

        self.do(settle)
        self.judge.of_everything()
        self.bury()
        TOLD["examples"] += 1
        TOLD["runs"] += self.count
        TOLD["crashes"] += self.crashes
        assert not self.judge.breaches, self.judge.breaches


TOLD = {"examples": 0, "runs": 0, "crashes": 0}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    found = SQLite()
    monkeypatch.setenv(ENV_HOME, str(found.home.root))
    STORES.append(found)
    yield found
    STORES.remove(found)
    found.remove()


@pytest.mark.timeout(0)
def test_any_history_keeps_what_is_promised(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    number = int(os.environ.get("DJ_SEED") or random.SystemRandom().randrange(1 << 32))
    with capsys.disabled():
        print(f"\nmodel: seed {number} (DJ_SEED={number} repeats it)", flush=True)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        seed(number)(EngineMachine),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink] if "DJ_MODEL_SHRINK" in os.environ else [Phase.generate],
        ),
    )
    with capsys.disabled():
        print(f"model: {TOLD}", flush=True)
