"""Two engines on one store, one vendor and one virtual time: the first loses its lease while it waits for the vendor.

A vendor's call of the first engine runs in a thread that takes turns with the loop, so it can be held in its middle while all
else goes on. What can be held is counted as the story goes: each call that changes something before it takes effect and before
its answer, each that only asks before it is asked and with an answer that has grown old. So each moment of a story has a number.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import secrets
import threading
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.engine.runtime.leases import FleetLeases
from dstack_jupyter.models.errors import LostLease
from dstack_jupyter.models.home import Home
from tests.simulated import backend
from tests.simulated.loop import Clock, Quiet, StoreThread, VirtualLoop, attach
from tests.simulated.machines import SimulatedMachines
from tests.simulated.world import World

from . import scenarios
from .judge import Judge
from .scenarios import Scenario
from .stores import Store
from .story import PATIENCE, Late, Story
from .trial import AFTERWARDS, LONGEST, SWEPT, left_over

ASKS = ("find", "get", "list_all", "list_attached")
"""Calls that change nothing."""
SEED = 2026


class Call:
    """A vendor's call in a thread of its own, of which one at a time runs: the loop's, or this one."""

    def __init__(self, loop: PairLoop, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.future: asyncio.Future[Any] = loop.create_future()
        self.over = False
        self.name = function.__name__
        self._loop, self._function, self._args = loop, function, args
        self._go, self._back = threading.Semaphore(0), threading.Semaphore(0)
        self._found: Any = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        self._go.acquire()
        asyncio._set_running_loop(self._loop)  # what the vendor and the world ask for the time
        self._loop.calling.call = self
        try:
            self._found = self._function(*self._args)
            self._loop.moment(f"vendor.{self.name}: answered")
        except BaseException as error:
            self._error = error
        self.over = True
        self._back.release()

    def go_on(self) -> None:
        """Until it is held, or over: then who waits for it hears what it came to."""
        self._go.release()
        self._back.acquire()
        if self.over and not self.future.cancelled():
            if self._error is not None:
                self.future.set_exception(self._error)
            else:
                self.future.set_result(self._found)

    def hold(self) -> None:
        """Called in its thread."""
        self._back.release()
        self._go.acquire()


class PairLoop(VirtualLoop):
    """``first`` are the vendors as the first engine calls them; at moment ``hold_at`` (from 1) one is held for ``held`` s."""

    def __init__(self, clock: Clock, hold_at: int, held: float) -> None:
        super().__init__(clock)
        self.hold_at, self.held = hold_at, held
        self.first: Any = None
        self.moments: list[str] = []
        self.states: list[tuple[int, int]] = []
        self.state: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self.calling = threading.local()
        self.lose: Callable[[], None] = lambda: None
        self.resumed: Callable[[], None] = lambda: None
        self.wrote: Callable[[Any], None] = lambda _: None
        """Hears of each call of a store that had a fence, when it was carried out or refused."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        if self.first is None or all(executor is not line._threads for line in self.first._lines.values()):
            return super().run_in_executor(executor, func, *args)
        call = Call(self, func, args)
        self.call_soon(self._begin, call)
        return call.future

    def _begin(self, call: Call) -> None:
        call.go_on()
        if not call.over:
            self.clock.at(self.clock.now + self.held, lambda: self.call_soon(self._resume, call))
            self.lose()

    def _resume(self, call: Call) -> None:
        call.go_on()
        self.resumed()

    def moment(self, name: str) -> None:
        call = getattr(self.calling, "call", None)
        if call is None or not name.startswith("vendor."):
            return
        what, _, where = name.removeprefix("vendor.").partition(": ")
        # A create that looks first is one call: held while it looks it is the same as held on its way.
        if what == call.name and (what in ASKS) == (where in ("asked", "answered")):
            self.moments.append(name)
            self.states.append(self.state())
            if len(self.moments) == self.hold_at:
                call.hold()

    def passes(self, name: str) -> bool:
        self.moment(name)
        return super().passes(name)

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        if getattr(callback, "__name__", "") == "_answer":
            for call in args[0]:
                if call.writes and call.fence is not None:
                    self.wrote(call)
        return super().call_soon_threadsafe(callback, *args, context=context)


@dataclass
class Outcome:
    breaches: list[str] = field(default_factory=list)
    moments: list[str] = field(default_factory=list)
    states: list[tuple[int, int]] = field(default_factory=list)
    """For each moment what was stored and what had happened at the vendor before it: equal, equal futures."""
    lost: bool = False
    """Whether the first engine lost what it had."""
    refused: int = 0
    """Writes of the first engine that were refused."""

    def classes(self) -> list[int]:
        """The numbers of the moments that differ from the ones before them."""
        known: dict[tuple[Any, ...], int] = {}
        for number, found in enumerate(zip(self.moments, self.states, strict=True), 1):
            known.setdefault(found, number)
        return list(known.values())


class Pair:
    """One trial. ``hold_at`` 0: nothing is held. ``loses``: whether the first loses its lease with the call that is held."""

    def __init__(
        self, scenario: Scenario, store: Store, homes: tuple[Home, Home], hold_at: int, held: float, *, loses: bool = True
    ) -> None:
        attach()
        store.renew()
        self._scenario, self._store, self._homes = scenario, store, homes
        self._world = World(Clock())
        self._loop = PairLoop(self._world.time, hold_at, held)
        scenarios.programs(self._world)
        scenario.prepare(self._world)
        self._judge = Judge(store, self._world)
        self._story = Story(self._world)
        self._gone: dict[str, Any] = {}
        self._writes = 0
        self._stops = False
        self._taken = asyncio.Event()
        self._beside: list[asyncio.Task[None]] = []
        self.outcome = Outcome(self._judge.breaches, self._loop.moments, self._loop.states)
        backend.use(self._world)
        self._loop.wrote, self._loop.resumed = self._wrote, self._resumed
        if loses:
            self._loop.lose = self._lose
        self._loop.state = lambda: (self._writes, self._world.changes)

    def _engine(self, home: Home, lost: Callable[[], None] = lambda: None) -> Engine:
        engine = Engine(home, lost, lambda _home, _db, _keys, installation, *_: SimulatedMachines(self._world, installation))
        for lane in engine._database._lanes:
            lane.thread = StoreThread()  # type: ignore[assignment]
        return engine

    # --- the lease goes ---------------------------------------------------------------------------------------------------

    def _lose(self) -> None:
        """Nobody has heard of the first engine for as long as a lease holds. With SQLite: another life of its home begins."""
        if isinstance(self._one._leases, FleetLeases):
            resources = self._store.rows(
                "UPDATE leases SET expires_at = 0 WHERE owner = ? RETURNING resource", self._one._leases.owner
            )
            self.outcome.lost = True
            if resources:  # else all fleets have ended, and what goes on is a sweep's
                self._two._leases.look()
                self._taken.set()
        else:
            self.outcome.lost = True
            self._apart(self._take_over())

    async def _take_over(self) -> None:
        await self._two.start()
        self._taken.set()

    def _lost(self) -> None:
        """SQLite: what a host does when its engine is told so."""
        if not self._stops:
            self._stops = True
            self._apart(self._one.stop())

    def _apart(self, what: Coroutine[Any, Any, None]) -> None:
        """In a context of its own: this one may be that of a reconciler, with its fence."""
        self._beside.append(self._loop.create_task(what, context=contextvars.Context()))

    def _resumed(self) -> None:
        """What a vendor makes later than any create of it may take is a second machine, and no fault of anybody's: it must go."""
        for vm in self._world.vms:
            vm.twin = vm.twin or vm.made - vm.asked > backend.TRAITS.settles

    def _wrote(self, call: Any) -> None:
        """What was carried out under a fence: that must hold still, or have ended with what was written."""
        fence = call.fence
        if call.error is not None:
            self.outcome.refused += isinstance(call.error, LostLease)
            return
        self._writes += 1
        found = self._store.rows("SELECT owner, token FROM leases WHERE resource = ?", fence.resource)
        if found:
            holds = (found[0]["owner"], found[0]["token"]) == (fence.owner, fence.token)
        else:
            holds = self._gone.setdefault(fence.resource, fence) == fence
        if not holds and (wrong := f"a write was carried out under the fence of token {fence.token}, which had fallen") not in (
            self._judge.breaches
        ):
            self._judge.breaches.append(wrong)

    # --- the story --------------------------------------------------------------------------------------------------------

    async def _tell(self) -> None:
        """Each step at the engine that acts; the one under which the lease was lost is done again at the other engine."""
        shared = self._store.kind == "postgresql"
        await self._one.start()
        if shared:
            await self._two.start()
        await asyncio.sleep(0.3)  # no beat of the first at the very moment at which it is to lose
        self._loop.first = self._one._reconcilers["instance"].__self__._vendors  # type: ignore[attr-defined]
        at, steps = 0, self._scenario.steps
        taken = self._loop.create_task(self._taken.wait())
        while at < len(steps):
            acts = self._two if self._taken.is_set() else self._one
            step = self._loop.create_task(steps[at](acts, self._story))  # type: ignore[arg-type]
            waits = {step} if acts is self._two else {step, taken}
            done, _ = await asyncio.wait(waits, timeout=LONGEST, return_when="FIRST_COMPLETED")
            if step in done:
                step.result()
                at += 1
                continue
            step.cancel()
            await asyncio.wait({step})
            if not done:
                raise Late(f"step {at}")
        taken.cancel()
        await self._rest()

    async def _rest(self) -> None:
        end = self._loop.time() + PATIENCE
        shared = self._store.kind == "postgresql"
        while (self._two if self._taken.is_set() else self._one).unfinished() or (shared and self._one.unfinished()):
            if self._loop.time() > end:
                raise Late("both engines to have nothing left to do")
            await asyncio.sleep(0.5)
        await asyncio.sleep(self._loop.held)  # what was held may make something yet
        while left_over(self._store, self._world) and self._loop.time() < end + SWEPT:
            await asyncio.sleep(60)
        await asyncio.sleep(AFTERWARDS)
        for engine in (self._one, self._two):
            await engine.stop()

    def run(self) -> Outcome:
        dice = random.Random(SEED)
        before, secrets.token_hex = secrets.token_hex, lambda count=32: dice.randbytes(count).hex()
        try:
            self._one = self._engine(self._homes[0], self._lost)
            self._two = self._engine(self._homes[1 if self._store.kind == "postgresql" else 0])
            self._loop.live(self._tell())
        except Quiet:
            self._judge.breaches.append("everything sleeps, and the story has not ended")
        except Exception as error:
            told = self._story.note if isinstance(error, Late) else "".join(traceback.format_exception(error))
            self._judge.breaches.append(f"{type(error).__name__}: {error} {told}")
        else:
            self._judge.at_the_end(self._scenario, self._story)
        finally:
            secrets.token_hex = before
            for engine in (self._one, self._two):
                engine._database._shut()
            self._loop.bury()
        return self.outcome
