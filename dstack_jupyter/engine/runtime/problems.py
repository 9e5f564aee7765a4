"""What does not get on at the moment, and why. The engine goes on trying; users are told.

Problems of attempts are stored too, by the engine that acts for them: others that share the store tell the same, and who takes
over knows since when. What keeps the store itself from being written is in memory only.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ...models.errors import DstackJupyterError, StorageFull, StoreUnavailable, Unreachable
from ...models.runs import Condition, ConditionType, RunView
from ..store import conditions
from ..store.database import Database
from .bus import Bus
from .queue import Key

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """``since`` in seconds since the epoch."""

    since: float
    message: str
    type: ConditionType = "stuck"


def described(error: Exception, since: float) -> Problem:
    message = error.message if isinstance(error, DstackJupyterError) else f"{type(error).__name__}: {error}"
    if isinstance(error, StorageFull | StoreUnavailable):
        return Problem(since, message, "storage")
    return Problem(since, message, "unreachable" if isinstance(error, Unreachable) else "stuck")


class Problems:
    """Use it from the engine's loop. ``keep`` and ``clear`` are called under the fence of what the key belongs to."""

    def __init__(self, database: Database, bus: Bus) -> None:
        self._database = database
        self._bus = bus
        self._found: dict[Key, Problem] = {}
        self._stored: dict[Key, tuple[str, str]] = {}
        self._recalling: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Key]:
        return iter(list(self._found))

    def now(self) -> list[Problem]:
        return list(self._found.values())

    def of(self, view: RunView) -> list[Condition]:
        """Those of a run's attempts that are known here."""
        keys = (Key("attempt", attempt.id) for attempt in view.attempts)
        problems = (self._found[key] for key in keys if key in self._found)
        return [Condition(type=problem.type, since=problem.since, message=problem.message) for problem in problems]

    def failed(self, key: Key, error: Exception) -> None:
        """A reconciler, or what comes before it, failed."""
        before = self._found.get(key)
        self._found[key] = described(error, before.since if before else time.time())
        self._bus.publish_all()

    async def keep(self, key: Key, error: Exception) -> None:
        """Store what a reconciler failed of, if it is new. What cannot be stored is known here at least: raises nothing."""
        problem = described(error, 0.0)
        if key.kind != "attempt" or self._stored.get(key) == (problem.type, problem.message):
            return
        try:
            await self._database.write(conditions.note, key.id, problem.type, problem.message)
        except DstackJupyterError as reason:
            log.info("%s %s: its condition was not stored: %s", *key, reason.message)
        else:
            self._stored[key] = (problem.type, problem.message)

    async def clear(self, key: Key) -> None:
        """It gets on again."""
        if key in self._stored:
            await self._database.write(conditions.clear, key.id)
            del self._stored[key]
        if self._found.pop(key, None) is not None:
            self._bus.publish_all()

    def drop(self, key: Key) -> None:
        """Another engine acts for it now."""
        self._found.pop(key, None)
        self._stored.pop(key, None)

    def recall(self, attempt_ids: Sequence[str], wake: Callable[[Key], None]) -> None:
        """We act for these from now on: what stands of them in the store is ours to clear. ``wake`` looks at a key."""
        if attempt_ids:
            # Not the caller's context, which may be fenced.
            task = asyncio.get_running_loop().create_task(self._recall(attempt_ids, wake), context=contextvars.Context())
            self._recalling.add(task)
            task.add_done_callback(self._recalling.discard)

    async def _recall(self, attempt_ids: Sequence[str], wake: Callable[[Key], None]) -> None:
        for row in await self._database.read_aside(conditions.of, attempt_ids):
            key = Key("attempt", row.attempt_id)
            self._stored.setdefault(key, (row.type, row.message))
            self._found.setdefault(key, Problem(row.since, row.message, row.type))
            wake(key)

    def close(self) -> None:
        for task in self._recalling:
            task.cancel()
