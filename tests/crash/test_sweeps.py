"""Sweeps of a whole engine on virtual time: what a vendor makes long after anybody waits for it is found and ended (R10, F01)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from dstack_jupyter.engine.engine import Engine
from tests.simulated.life import Life
from tests.simulated.loop import Clock
from tests.simulated.world import World

from . import scenarios, stores
from .scenarios import LOG
from .scenarios_rented import CLOUD
from .story import Story, apply, follow

LATE = 900.0
"""Virtual seconds after its call at which a create makes something: the run has long had another machine, and ended."""


@pytest.fixture
def store() -> Iterator[stores.SQLite]:
    found = stores.SQLite()
    yield found
    found.remove()


@pytest.mark.parametrize("killed", [False, True], ids=["the engine goes on", "the engine is killed and another comes"])
def test_a_machine_that_is_made_after_its_row_has_ended_is_ended_by_the_sweeps(store: stores.SQLite, killed: bool) -> None:
    """F01 dstack#3453."""
    home = store.renew()
    world = World(Clock())
    scenarios.programs(world)
    world.faults.late_creates, world.faults.late_by = 1, LATE
    story = Story(world)

    async def run(engine: Engine) -> None:
        await apply("first", *LOG, **CLOUD)(engine, story)
        await follow("first")(engine, story)
        await asyncio.sleep(LATE + 60)

    async def wait(_: Engine) -> None:
        await asyncio.sleep(900)

    life = Life(home, world)
    life.run(run)
    assert [row["state"] for row in store.rows("SELECT state FROM instances")] == ["terminated"]
    first, late = world.vms
    assert first.identity == late.identity and first.gone is not None and late.gone is None
    if killed:
        life.bury()
        life = Life(home, world)
    life.run(wait)
    assert late.gone is not None and late.gone - late.made < 900
    told = [row["action"] for row in store.rows("SELECT action FROM events WHERE kind = 'instance' ORDER BY seq")]
    assert told[-2:] == ["orphan", "swept"]
    life.end()
