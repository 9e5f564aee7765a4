"""What the walker found in the life of rented machines, each as a test of its own: a trial of one story without any crash."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.engine.queue import Key, Next
from dstack_jupyter.engine.store.fence import Fence, acting
from dstack_jupyter.models.home import ENV_HOME, Home

from . import scenarios_rented, trial
from .stores import SQLite, Store


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
