"""The work queue of the reconcilers: keys to look at, each handled by at most one task at a time.

Level-triggered: a key says where to look, never what happened, so wakes may be lost, doubled or merged without harm. Idle
means no task and no timer but the guards: the engine sleeps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
    running: bool = False
    again: bool = False
    failures: int = 0
    not_before: float = 0.0
    timer: asyncio.TimerHandle | None = None
    fires: bool = False
    """Whether the timer starts the handler; else it only forgets the key."""


Handler = Callable[[Key], Awaitable[Next]]


class WorkQueue:
    """Use it from the engine's loop only. ``parallel`` handlers run at once; ``failed`` hears of every exception."""

    def __init__(self, handler: Handler, *, parallel: int = 32, failed: Callable[[Key, Exception], None] | None = None) -> None:
        self._handler = handler
        self._slots = asyncio.Semaphore(parallel)
        self._failed = failed
        self._entries: dict[Key, _Entry] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def add(self, key: Key) -> None:
        """Look at ``key`` soon. While it is being handled: once more afterwards."""
        if self._closed:
            return
        entry = self._entries.setdefault(key, _Entry())
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
        entry.running = True
        entry.again = False
        task = asyncio.get_running_loop().create_task(self._run(key, entry), name=f"reconcile {key.kind} {key.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, key: Key, entry: _Entry) -> None:
        try:
            async with self._slots:
                found = await self._handler(key)
            entry.failures = 0
        except Exception as error:
            # One resource's fault never stops the others (F28, F29): it is aged, retried, and shown by `failed`.
            entry.failures += 1
            delay = min(LAST_RETRY, FIRST_RETRY * 2 ** (entry.failures - 1))
            log.warning("%s %s: %s; again in %.1f s", *key, error, delay, exc_info=entry.failures == 1)
            if self._failed is not None:
                self._failed(key, error)
            # A wake may well mean that the cause is gone: it is heard after a second.
            found = Next(rest=min(delay, 1.0), guard=delay)
        finally:
            entry.running = False
        if self._closed:
            return
        entry.not_before = asyncio.get_running_loop().time() + found.rest
        if entry.again:
            self.add(key)
        elif found.guard is not None:
            self._arm(key, entry, found.guard)
        elif found.rest:
            entry.fires = False
            entry.timer = asyncio.get_running_loop().call_later(found.rest, self._forget, key, entry)
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
