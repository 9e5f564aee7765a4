"""The work queue of the reconcilers: keys to look at, each handled by at most one task at a time.

Level-triggered: a key says where to look, never what happened, so wakes may be lost, doubled or merged without harm. Idle
means no task and no timer but the guards: the engine sleeps.

Each kind of key has slots of its own, so a thousand new fleets keep no machine waiting that is to go; and a handler that waits
for somebody outside lends its slot meanwhile (``release_slot``): a vendor that does not answer keeps nobody else waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

log = logging.getLogger(__name__)

FIRST_RETRY = 0.5
LAST_RETRY = 60.0


class Key(NamedTuple):
    """A resource to look at: its kind (``attempt``, ``fleet``) and id."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class Next:
    """What a handler asks for when it returns.

    ``rest``: seconds in which wakes only collect (batching under load). ``guard``: seconds after which to look again even if
    nothing wakes; None: never.
    """

    rest: float = 0.0
    guard: float | None = None


@dataclass(slots=True)
class _Entry:
    waiting: bool = False
    """For a slot: it will look at everything that happens until then."""
    running: bool = False
    again: bool = False
    failures: int = 0
    not_before: float = 0.0
    timer: asyncio.TimerHandle | None = None
    fires: bool = False
    """Whether the timer starts the handler; else it only forgets the key."""


Handler = Callable[[Key], Awaitable[Next]]


@dataclass(slots=True)
class _Lane:
    """The keys of one kind. ``free`` is below zero while more have come back from outside than there are slots."""

    free: int
    waiting: deque[Key] = field(default_factory=deque)


@dataclass(slots=True)
class _Slot:
    """What a running handler holds."""

    give: Callable[[], None]
    take: Callable[[], None]
    held: bool = True


_slot: ContextVar[_Slot | None] = ContextVar("slot", default=None)


@contextmanager
def release_slot() -> Iterator[None]:
    """For what a handler awaits of somebody outside, who may never answer: its slot is another's meanwhile.

    It goes on at once when it comes back; nobody new begins until the slots suffice again. Nothing happens outside of a handler,
    and in one that has lent its slot already.
    """
    slot = _slot.get()
    if slot is None or not slot.held:
        yield
        return
    slot.held = False
    slot.give()
    try:
        yield
    finally:
        slot.take()
        slot.held = True


class WorkQueue:
    """Use it from the engine's loop only. ``parallel`` handlers of a kind run at once; ``failed`` hears of every exception."""

    def __init__(self, handler: Handler, *, parallel: int = 32, failed: Callable[[Key, Exception], None] | None = None) -> None:
        self._handler = handler
        self._lanes = defaultdict[str, _Lane](lambda: _Lane(parallel))
        self._failed = failed
        self._entries: dict[Key, _Entry] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def waiting(self, *kinds: str) -> int:
        """How many keys of these kinds wait for a slot."""
        return sum(len(self._lanes[kind].waiting) for kind in kinds if kind in self._lanes)

    def add(self, key: Key) -> None:
        """Look at ``key`` soon. While it is being handled: once more afterwards."""
        if self._closed:
            return
        entry = self._entries.setdefault(key, _Entry())
        if entry.waiting:
            return
        if entry.running:
            entry.again = True
            return
        loop = asyncio.get_running_loop()
        wait = entry.not_before - loop.time()
        if wait > 0:
            self._arm(key, entry, wait)
        else:
            self._start(key, entry)

    def drop(self, key: Key) -> None:
        """Look at ``key`` no more, until it is added again. What runs goes on to its end."""
        entry = self._entries.get(key)
        if entry is None:
            return
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        entry.waiting = False  # its place in the lane is passed over
        if not entry.running:
            del self._entries[key]

    def _arm(self, key: Key, entry: _Entry, delay: float) -> None:
        loop = asyncio.get_running_loop()
        if entry.fires and entry.timer is not None and entry.timer.when() <= loop.time() + delay:
            return
        if entry.timer is not None:
            entry.timer.cancel()
        entry.fires = True
        entry.timer = loop.call_later(delay, self._fire, key, entry)

    def _fire(self, key: Key, entry: _Entry) -> None:
        entry.timer = None
        if not entry.running:
            self._start(key, entry)

    def _start(self, key: Key, entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        entry.waiting = True
        lane = self._lanes[key.kind]
        lane.waiting.append(key)
        self._serve(lane)

    def _serve(self, lane: _Lane) -> None:
        """Begin with those that wait, as far as there are slots."""
        while lane.free > 0 and lane.waiting and not self._closed:
            key = lane.waiting.popleft()
            entry = self._entries.get(key)
            if entry is None or not entry.waiting:
                continue  # it was dropped
            entry.waiting, entry.running, entry.again = False, True, False
            lane.free -= 1
            # In a context of its own: whoever woke it, or made room for it, may act for something else.
            work = self._run(key, entry, lane)
            task = asyncio.get_running_loop().create_task(work, name=f"reconcile {key.kind} {key.id}", context=Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _give(self, lane: _Lane) -> None:
        lane.free += 1
        self._serve(lane)

    def _take(self, lane: _Lane) -> None:
        lane.free -= 1

    async def _run(self, key: Key, entry: _Entry, lane: _Lane) -> None:
        slot = _Slot(partial(self._give, lane), partial(self._take, lane))
        _slot.set(slot)
        try:
            after = await self._handler(key)
            entry.failures = 0
        except Exception as error:
            # One resource's fault never stops the others (F28, F29): it is aged, retried, and shown by `failed`.
            entry.failures += 1
            delay = min(LAST_RETRY, FIRST_RETRY * 2 ** (entry.failures - 1))
            log.warning("%s %s: %s; again in %.1f s", *key, error, delay, exc_info=entry.failures == 1)
            if self._failed is not None:
                self._failed(key, error)
            # A wake may well mean that the cause is gone: it is heard after a second.
            after = Next(rest=min(delay, 1.0), guard=delay)
        finally:
            entry.running = slot.held = False
            self._give(lane)
        if self._closed:
            return
        entry.not_before = asyncio.get_running_loop().time() + after.rest
        if entry.again:
            self.add(key)
        elif after.guard is not None:
            self._arm(key, entry, after.guard)
        elif after.rest:
            entry.fires = False
            entry.timer = asyncio.get_running_loop().call_later(after.rest, self._forget, key, entry)
        else:
            self._entries.pop(key, None)

    def _forget(self, key: Key, entry: _Entry) -> None:
        """After its rest: a key that nobody woke meanwhile leaves nothing behind."""
        entry.timer = None
        if not entry.running:
            self._entries.pop(key, None)

    async def close(self) -> None:
        """No new work; waits for what runs (each handler's awaits have deadlines of their own), then cancels."""
        self._closed = True
        for entry in self._entries.values():
            if entry.timer is not None:
                entry.timer.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=3)
            for task in late:
                task.cancel()
