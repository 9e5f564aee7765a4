"""An event loop on virtual time that can be frozen at any point for ever: what a SIGKILL is to an engine.

One thread, one order of events for one seed. Time stands still while there is anything to do and then jumps to the next timer
or to the next event of the world. Executors are turns of the loop, so a thread's work is a step like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import threading
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, event
from sqlalchemy.util import LRUCache

Result = TypeVar("Result")
JULIAN_1970 = 2440587.5
MOST = 20000
"""Steps that may follow on each other without any time passing."""


class Crashed(BaseException):
    """The engine's process is gone. Leaves a synchronous step (a transaction, a vendor's call) without its outcome."""


class Quiet(Exception):
    """Nothing is left to happen, and what was waited for has not happened."""


class Spins(Exception):
    """The engine is busy without end at one moment of virtual time."""


class Clock:
    """Virtual time, shared by the loops of one engine after another. ``now`` in seconds since the epoch."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0

    def at(self, when: float, function: Callable[[], object]) -> None:
        """Call ``function`` when ``when`` has come, whoever lives then."""
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, function))

    def next(self) -> float | None:
        return self._events[0][0] if self._events else None

    def advance(self, to: float) -> None:
        """Everything up to ``to`` happens."""
        while self._events and self._events[0][0] <= to:
            when, _, function = heapq.heappop(self._events)
            self.now = max(self.now, when)
            function()
        self.now = max(self.now, to)


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop of one engine's life. ``crash_at`` numbers the point (1 is the first) at which it freezes; 0 never.

    ``trace`` are the names of the points that were passed, in order.
    """

    def __init__(self, clock: Clock, crash_at: int = 0) -> None:
        super().__init__()
        self.clock = clock
        self.crash_at = crash_at
        self.crash_after_steps = 0
        self.dead = False
        self.trace: list[str] = []
        self.stamps: list[Any] = []
        self.stamp: Callable[[], Any] = lambda: None
        """What of the world and the story a crash at this moment would leave; noted at each point."""
        self.steps = 0
        self._moment, self._since = clock.now, 0

    # --- time and order -------------------------------------------------------------------------------------------------

    def time(self) -> float:
        return self.clock.now

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        timers: Any = self._scheduled  # type: ignore[attr-defined]
        while timers and (timers[0]._cancelled or timers[0]._when <= self.clock.now):
            handle = heapq.heappop(timers)
            handle._scheduled = False
            if not handle._cancelled:
                ready.append(handle)
        if not ready:
            moments = [timers[0]._when] if timers else []
            moments += [self.clock.next()] if self.clock.next() is not None else []
            if not moments:
                self._stopping = True
                return
            self.clock.advance(min(moments))
            return
        handle = ready.popleft()
        if handle._cancelled:
            return
        self.steps += 1
        if self.clock.now != self._moment:
            self._moment, self._since = self.clock.now, self.steps
        elif self.steps - self._since > MOST:
            raise Spins(f"{MOST} steps at one moment, the last of them {handle!r}")
        handle._run()
        if self.crash_after_steps and self.steps >= self.crash_after_steps:
            self.dead = True
        if self.dead:
            self._stopping = True

    def _write_to_self(self) -> None:
        pass

    def _process_events(self, event_list: Any) -> None:
        pass

    # --- points ---------------------------------------------------------------------------------------------------------

    def passes(self, name: str) -> bool:
        """Note that a point was reached; False: here the engine dies."""
        self.trace.append(name)
        self.stamps.append(self.stamp())
        if self.crash_at and len(self.trace) == self.crash_at:
            self.dead = True
        return not self.dead

    async def point(self, name: str) -> None:
        """A point between two awaits. Who dies here never goes on: not even its ``finally``."""
        if not self.passes(name):
            await self.create_future()

    def point_now(self, name: str) -> None:
        """A point inside a synchronous step. Raises Crashed."""
        if not self.passes(name):
            raise Crashed

    # --- executors ------------------------------------------------------------------------------------------------------

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()
        self.call_soon(self._in_turn, future, func, args)
        return future

    def _in_turn(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            found = func(*args)
        except Crashed:
            self.dead = True
        except BaseException as error:
            if not future.cancelled():
                future.set_exception(error)
        else:
            if not future.cancelled():
                future.set_result(found)

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        if getattr(callback, "__name__", "") == "_answer" and any(call.writes for call in args[0]):
            # The store's own word: what it did is committed, and nobody has heard of it yet.
            self.point_now("store: committed, not answered")
        return self.call_soon(callback, *args, context=context)

    def add_reader(self, *_: Any) -> None:
        import psycopg

        raise psycopg.OperationalError("a virtual loop has no network")

    # --- life and death -------------------------------------------------------------------------------------------------

    def live(self, main: Coroutine[Any, Any, Result]) -> Result:
        """Run ``main``. Raises Crashed when the engine died on the way, Quiet when nothing more can happen."""
        task = self.create_task(main, name="main")
        task.add_done_callback(lambda _: self.stop())
        self.run_forever()
        if self.dead:
            raise Crashed
        if not task.done():
            raise Quiet
        return task.result()

    def bury(self) -> None:
        """Let go of what is left of this life without running any of it."""
        self.dead = True
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)  # what a task says while it is taken apart is not said by an engine
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            coroutine = task.get_coro()
            with contextlib.suppress(BaseException):
                coroutine.close()  # type: ignore[union-attr]
        logging.disable(before)
        self._ready.clear()  # type: ignore[attr-defined]
        self._scheduled.clear()  # type: ignore[attr-defined]
        self.close()


class StoreThread:
    """Stands for the store's thread pool: its work is a turn of the loop, so calls that wait together share a commit."""

    def submit(self, function: Callable[..., Any], *args: Any) -> None:
        loop = current()
        assert loop is not None
        loop.call_soon(loop._in_turn, loop.create_future(), function, args)

    def shutdown(self, wait: bool = True) -> None:
        pass


# --- the databases live on the same time ------------------------------------------------------------------------------------


def current() -> VirtualLoop | None:
    """The virtual loop that runs this moment, in this thread."""
    loop = asyncio._get_running_loop()
    return loop if isinstance(loop, VirtualLoop) else None


class Statements(LRUCache[Any, Any]):
    """Compiled statements of all lives: each has a dialect of its own, and they are all alike. Half of a trial's time else."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get((key[0].name, *key[1:]), default)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__((key[0].name, *key[1:]), value)


STATEMENTS: dict[str, Statements] = {}
"""By store: what is sealed in a statement's values is sealed with the keys of one store."""
_listening = threading.Lock()
_attached = False


@cache
def no_network() -> None:
    """A virtual loop cannot wait for a socket. Said before there is one: the server makes a process for each that knocks."""
    import psycopg

    connect = psycopg.AsyncConnection.connect

    async def refuse(*args: Any, **given: Any) -> Any:
        if current() is not None:
            raise psycopg.OperationalError("a virtual loop has no network")
        return await connect(*args, **given)

    psycopg.AsyncConnection.connect = refuse  # type: ignore[assignment]


def attach() -> None:
    """Give databases that are opened from a virtual loop its time, and make their commits points. Other engines see nothing."""
    global _attached  # noqa: PLW0603
    with _listening:
        if _attached:
            return
        _attached = True

    @event.listens_for(Engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        loop = current()
        if loop is not None and hasattr(connection, "create_function"):
            connection.create_function("julianday", 1, lambda _: JULIAN_1970 + loop.clock.now / 86400.0)

    @event.listens_for(Engine, "engine_connect")
    def engine_connect(connection: Connection) -> None:
        if current() is not None:
            store = str(connection.engine.url)
            connection.engine._compiled_cache = STATEMENTS.setdefault(store, Statements(2000))  # type: ignore[assignment]

    @event.listens_for(Engine, "do_connect")
    def do_connect(dialect: Any, *_: Any) -> None:
        if current() is not None and dialect.name == "postgresql":
            no_network()

    @event.listens_for(Engine, "begin")
    def begin(connection: Connection) -> None:
        loop = current()
        if loop is not None and connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET LOCAL dj.now = '{loop.clock.now!r}'")

    @event.listens_for(Engine, "commit")
    def commit(connection: Connection) -> None:
        loop = current()
        if loop is not None and not connection.get_execution_options().get("reading", False):
            loop.point_now("store: about to commit")
