"""One trial: a story, lived by one engine after another, each of which dies at a given point."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dstack_jupyter.engine.engine import Engine
from tests.simulated.life import Life
from tests.simulated.loop import Clock, Crashed, Quiet
from tests.simulated.world import World

from . import scenarios
from .judge import Judge
from .scenarios import Scenario
from .stores import Store
from .story import PATIENCE, Late, Restart, Story

LONGEST = 12 * 86400.0
"""Virtual seconds of the longest step."""
SWEPT = 2 * 3600.0
"""Virtual seconds in which sweeps find what a crash or the vendor left."""
AFTERWARDS = 35.0
"""Virtual seconds in which nothing may change any more."""


@dataclass
class Outcome:
    """``traces``: the points that each life passed, in order."""

    breaches: list[str] = field(default_factory=list)
    traces: list[list[str]] = field(default_factory=list)
    stamps: list[list[int]] = field(default_factory=list)
    """For each point the effects that were stored, had on a machine or seen by a user before it: equal, equal futures."""


class Effects:
    """Counts what a crash leaves behind. Between two effects every crash has the same future, since memory is all it takes.

    -1 when the story is over and only the engine's own rounds go on.
    """

    NONE = ("host.look: ", "host.look_around: ", "host.finish: ", "host.prepared: ", "host.greet: ")

    def __init__(self, trace: list[str], story: Story, step: Callable[[], int]) -> None:
        self._trace, self._story, self._step = trace, story, step
        self._last: tuple[int, ...] = (0, 0, 0)
        self.count = 0
        self.quiet = False

    def __call__(self) -> int:
        name = self._trace[-1]
        effect = name.startswith(("store: committed", "host.")) and not name.startswith(self.NONE)
        # What was sent to a vendor takes effect though its sender dies: a future of its own.
        effect = effect or (name.startswith("vendor.") and name.endswith("on its way"))
        progress = (self._step(), sum(heard.offset for heard in self._story.heard.values()), self._story.world.changes)
        if effect or progress != self._last:
            self.count += 1
        self._last = progress
        return -1 if self.quiet else self.count


def left_over(store: Store, world: World) -> bool:
    """Whether there is something that no row of ours waits for any more, or a row of something that may be."""
    there = any(vm.gone is None for vm in world.vms) or any(kind != "key" for kind in world.resources.values())
    return there or bool(store.rows("SELECT identity FROM cloud_resources WHERE instance_id IS NOT NULL"))


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
    effects: Effects

    def step() -> int:
        return at

    def quiet() -> None:
        effects.quiet = True

    async def live(engine: Engine) -> None:
        nonlocal at
        while at < len(scenario.steps):
            async with asyncio.timeout(LONGEST):
                await scenario.steps[at](engine, story)
            at += 1
        end = asyncio.get_running_loop().time() + PATIENCE
        while engine.unfinished():
            if asyncio.get_running_loop().time() > end:
                raise Late("the engine to have nothing left to do")
            await asyncio.sleep(0.5)
        while left_over(store, world) and asyncio.get_running_loop().time() < end + SWEPT:
            await asyncio.sleep(60)
        quiet()
        await asyncio.sleep(AFTERWARDS)
        await engine.stop()

    lives = list(crashes)
    while True:
        crash_at = lives.pop(0) if lives else 0
        life = Life(home, world, crash_at=crash_at)
        outcome.traces.append(life.loop.trace)
        outcome.stamps.append(life.loop.stamps)
        effects = life.loop.stamp = Effects(life.loop.trace, story, step)
        try:
            life.run(live)
        except Crashed:
            life.bury()
            judge.between()
            world.time.advance(world.time.now + scenario.away)
            continue
        except Restart:
            at += 1
            life.bury()
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
