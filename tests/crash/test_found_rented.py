"""What the walker found in the life of rented machines, each as a test of its own: a trial of one story without any crash."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.engine.provisioning import vendor_calls
from dstack_jupyter.engine.runtime.queue import Key, Next
from dstack_jupyter.engine.store.fence import Fence, acting
from dstack_jupyter.models.home import ENV_HOME, Home
from tests.simulated.loop import VirtualLoop

from . import scenarios_rented, trial
from .judge_rented import RentedJudge
from .scenarios import LOG, Scenario
from .stores import SQLite, Store
from .story import apply, follow


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    made = SQLite()
    yield made
    made.remove()


@pytest.mark.parametrize(
    "story",
    [
        pytest.param("an order that is refused", id="a refused create forgets no disk of its own"),
        pytest.param("a thing without an answer, and a stop", id="a thing that was made without an answer goes too"),
        pytest.param("no quota for the things of the first offer", id="no quota for a thing is the next offer's turn"),
        pytest.param("a machine that is not found while it lingers", id="one 'not found' after a delete is no end"),
        pytest.param("a create that makes two machines, and deletes that are refused", id="the second of two is ended"),
    ],
)
def test_rented(story: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV_HOME, str(store.home.root))
    found = next(each for each in scenarios_rented.RENTED if each.name == story)
    assert trial.run(found, store).breaches == []


@pytest.mark.parametrize("at", ["vendor.create: on its way", "vendor.create: done, not answered"])
def test_fifty_engines_that_die_one_after_another_make_one_machine(
    at: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each dies as soon as it looks for what the one before it left. (F03 cluster-api-provider-aws#5794)"""
    monkeypatch.setenv(ENV_HOME, str(store.home.root))
    story = next(each for each in scenarios_rented.RENTED if each.name == "rented")
    first = trial.run(story, store).traces[0].index(at) + 1
    acts = ("vendor.find: asked", "vendor.create: done, not answered")
    second = trial.run(story, store, [first]).traces[1]
    looks = next(place for place, name in enumerate(second, 1) if name in acts)
    found = trial.run(story, store, [first, *[looks] * 50])
    assert found.breaches == []
    assert [trace[-1] for trace in found.traces[1:-1]] == ["vendor.find: asked"] * 50


def test_a_burst_at_a_vendor_that_throttles_and_answers_in_part_leaks_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty machines at once, every second call of their making without a good answer. (F16 karpenter-provider-aws#549)"""
    monkeypatch.setenv(ENV_HOME, str(store.home.root))
    faults = {"limited": 40, "broken": 10, "lost_things": 8, "lost_answers": 8, "late_creates": 4, "twins": 4, "busy": 10}
    steps = (apply("first", *LOG, nodes=40, **scenarios_rented.CLOUD), follow("first"))
    prepare = scenarios_rented.prepared("look", faults)
    found = trial.run(Scenario("a burst", steps, {"first": "done"}, {"first": 1}, prepare=prepare), store)
    assert found.breaches == []


def test_a_create_that_waits_for_a_thread_is_not_stored_as_sent(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed there, nobody could tell that nothing was made: hundreds of machines came two minutes late. (R5)"""
    monkeypatch.setenv(ENV_HOME, str(store.home.root))
    monkeypatch.setattr(vendor_calls, "THREADS", 2)
    # Calls of the simulated vendor take no time: where a create took none, nobody would wait for a thread.
    at_once = VirtualLoop.run_in_executor

    def slow(loop: VirtualLoop, executor: Any, function: Any, *args: Any) -> Any:
        if getattr(function, "__name__", "") != "create":
            return at_once(loop, executor, function, *args)
        future = loop.create_future()
        loop.call_later(3.0, loop._in_turn, future, function, args)
        return future

    monkeypatch.setattr(VirtualLoop, "run_in_executor", slow)
    on_the_way = list[int]()
    creating = RentedJudge._creating

    def counted(judge: RentedJudge, identity: str) -> None:
        on_the_way.append(len(store.rows("SELECT 1 FROM cloud_instances WHERE create_sent_at IS NOT NULL AND rented_at IS NULL")))
        creating(judge, identity)

    monkeypatch.setattr(RentedJudge, "_creating", counted)
    steps = (apply("first", *LOG, nodes=12, **scenarios_rented.CLOUD), follow("first"))
    prepare = scenarios_rented.prepared("look", {})
    assert trial.run(Scenario("twelve", steps, {"first": "done"}, {"first": 1}, prepare=prepare), store).breaches == []
    assert len(on_the_way) == 12
    assert max(on_the_way) <= 2


async def test_a_sweep_that_was_woken_by_who_acts_for_a_fleet_writes_for_itself(home: Home) -> None:
    """Its task inherited the fence of the fleet, which soon ended: on PostgreSQL no account was ever swept."""
    engine = Engine(home)
    await engine.start()
    seen: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def sweep(_: Key) -> Next:
        seen.set_result(acting.get())
        return Next()

    try:
        engine._reconcilers["sweep"] = sweep
        acting.set(Fence("a fleet", "us", 1))
        engine._queue.add(Key("sweep", "one"))
        assert await seen is None
    finally:
        acting.set(None)
        await engine.stop()
