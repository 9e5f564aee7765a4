"""One trial: a story, lived by one engine after another, each of which dies at a given point."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field

from dstack_jupyter.engine.engine import Engine
from tests.simulated.life import Life
from tests.simulated.loop import Clock, Crashed, Quiet
from tests.simulated.world import World

from . import scenarios
from .judge import Judge
from .scenarios import Scenario
from .stores import Store
from .story import PATIENCE, Late, Story

AWAY = 0.6
"""Virtual seconds between a crash and the next engine."""
AFTERWARDS = 100.0
"""Virtual seconds in which nothing may change any more."""


@dataclass
class Outcome:
    """``traces``: the points that each life passed, in order."""

    breaches: list[str] = field(default_factory=list)
    traces: list[list[str]] = field(default_factory=list)


def run(scenario: Scenario, store: Store, crashes: Sequence[int] = ()) -> Outcome:
    """Live the story with a crash at the given point of each life (counted from 1); the life after the last one ends well."""
    world = World(Clock())
    scenarios.programs(world)
    scenario.prepare(world)
    home = store.renew()
    judge = Judge(store, world)
    story = Story(world)
    outcome = Outcome(judge.breaches)
    at = 0

    async def live(engine: Engine) -> None:
        nonlocal at
        while at < len(scenario.steps):
            async with asyncio.timeout(2 * PATIENCE):
                await scenario.steps[at](engine, story)
            at += 1
        end = asyncio.get_running_loop().time() + PATIENCE
        while engine.unfinished():
            if asyncio.get_running_loop().time() > end:
                raise Late("the engine to have nothing left to do")
            await asyncio.sleep(0.5)
        await asyncio.sleep(AFTERWARDS)

    for crash_at in [*crashes, 0]:
        life = Life(home, world, crash_at=crash_at)
        outcome.traces.append(life.loop.trace)
        try:
            life.run(live)
        except Crashed:
            life.bury()
            judge.between()
            world.time.advance(world.time.now + AWAY)
            continue
        except Quiet:
            judge.breaches.append("everything sleeps, and the story has not ended")
        except TimeoutError:
            judge.breaches.append(f"step {at} did not come to its end")
        except Exception as error:
            lines = traceback.format_exception(error)
            told = story.note if isinstance(error, Late) else "".join(lines)
            judge.breaches.append(f"step {at}: {type(error).__name__}: {error} {told}")
        else:
            judge.at_the_end(scenario, story)
        life.bury()
        break
    return outcome
