"""Opens the database and runs transactions off the loop.

SQLite: WAL with ``synchronous=FULL`` (a commit that was answered survives a power cut). PostgreSQL: the server's own default,
which is the same. One thread serves the reconcilers (PostgreSQL: one more for their reads); two more serve reads that may be
long. The functions that run inside are plain and synchronous, take a ``Connection`` and can be tested without a loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from ...models.home import Home
from ...models.secret import Secret
from ..keys.vault import FileKeys, Vault
from . import events, fence, migrate, sealed
from .connect import cause_of, engine_for, is_collision, is_full, translated
from .fence import Fence
from .schema import sealed_values

Result = TypeVar("Result")

BATCH = 64
"""Writes that one commit carries at most."""
OPENING = 0x646A0001
"""The advisory lock of PostgreSQL under which one engine at a time makes or upgrades the tables."""


@dataclass(slots=True)
class _Call:
    """One caller's function on its way through the store's thread."""

    function: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    writes: bool
    fence: Fence | None = None
    result: Any = None
    error: BaseException | None = None

    def answer(self) -> None:
        """On the loop, after the commit. A caller that was cancelled meanwhile gets nothing."""
        if self.future.cancelled():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class _Lane:
    """Calls on their way through one thread, in their order. ``add`` from the loop, ``take`` from the thread."""

    def __init__(self, name: str) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: deque[_Call] = deque()
        self._draining = False
        self._lock = threading.Lock()

    def add(self, call: _Call) -> bool:
        """Whether nobody drains it yet: the caller sees to that."""
        with self._lock:
            self._waiting.append(call)
            begin, self._draining = not self._draining, True
        return begin

    def take(self) -> list[_Call]:
        """The next batch; an empty one ends the draining."""
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            self._draining = bool(batch)
        return batch


class Database:
    """The store's connection to its database: a SQLite file, or a PostgreSQL database by its URL.

    Made, opened and closed by the engine on its loop. Calls that wait for the thread together share one transaction: one sync of
    the disk serves many runs. The fault of one function undoes only that function.

    Writes outside a reconciler must prove ``fence``; a reconciler's own fence is ``fence.acting``.
    """

    def __init__(self, where: Path | Secret, vault: Vault | None = None) -> None:
        """``vault`` seals columns; None: the vault whose keys lie beside a SQLite file, as in a home."""
        if vault is None:
            assert isinstance(where, Path), "the keys of a shared store lie beside nothing"
            vault = Vault(FileKeys.of(Home(where.parent)))
        self.where = where
        self.fence: Fence | None = None
        self._vault = vault
        self._engine: Engine | None = None
        self._reading: Engine | None = None
        self._lanes = [_Lane("dj-store"), _Lane("dj-store-2")]
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="dj-store-read")

    @property
    def shared(self) -> bool:
        """Whether other engines may use the database at the same time."""
        return not isinstance(self.where, Path)

    async def open(self) -> None:
        """Make or upgrade the tables. Raises StorageFull, StoreUnavailable, EngineError, ConfigurationError (no key)."""
        await asyncio.get_running_loop().run_in_executor(self._lanes[0].thread, self._open)

    def _open(self) -> None:
        if isinstance(self.where, Path) and not self.where.exists():
            # 0600 from the first byte; SQLite gives the WAL files the same mode as the database.
            self.where.touch(mode=0o600)
        self._engine = engine_for(self.where)
        events.attach(self._engine)
        options: dict[str, Any] = {"isolation_level": "REPEATABLE READ"} if self.shared else {}
        self._reading = self._engine.execution_options(reading=True, **options)
        sealed.attach(self._engine, self._vault)
        with self._transaction(reading=False) as connection:
            if self.shared:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": OPENING})
            migrate.upgrade(connection)
            sealed.verify(connection, self._vault, sealed_values)

    async def close(self) -> None:
        """Wait for running calls, then close. Later calls fail."""
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        for lane in self._lanes:
            lane.thread.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        if self._engine is not None:
            self._engine.dispose()

    @contextmanager
    def _transaction(self, *, reading: bool) -> Iterator[Connection]:
        engine = self._reading if reading else self._engine
        assert engine is not None, "the database was not opened"
        try:
            with engine.connect() as connection, connection.begin():
                yield connection
        except (DBAPIError, PendingRollbackError) as error:
            ours = translated(cause_of(error), self.where)
            if ours is not None:
                raise ours from error
            raise

    async def write(self, function: Callable[..., Result], *args: Any) -> Result:
        """Run ``function(connection, *args)`` as one transaction; committed when this returns.

        A caller that is cancelled does not undo or interrupt a commit under way. Raises what the function raises; with nothing
        changed StorageFull, LostLease; and StoreUnavailable, after which the commit may have come through or not. The function
        may be called again when others were in the way of its transaction.
        """
        return await self._call(function, args, writes=True)

    async def read(self, function: Callable[..., Result], *args: Any) -> Result:
        """Run a short ``function(connection, *args)`` on a consistent snapshot."""
        return await self._call(function, args, writes=False)

    async def _call(self, function: Callable[..., Result], args: tuple[Any, ...], *, writes: bool) -> Result:
        loop = asyncio.get_running_loop()
        proof = (fence.acting.get() or self.fence) if writes else None
        call = _Call(lambda connection: function(connection, *args), loop.create_future(), writes, proof)
        # PostgreSQL answers reads while a write is on its way, and gives them a snapshot of their own.
        lane = self._lanes[0 if writes or not self.shared else 1]
        if lane.add(call):
            lane.thread.submit(self._drain, lane, loop)
        result: Result = await call.future
        return result

    def _drain(self, lane: _Lane, loop: asyncio.AbstractEventLoop) -> None:
        """On the lane's thread: everything that waits, until nothing does."""
        while batch := lane.take():
            self._carry_out(batch, reading=not any(call.writes for call in batch))
            loop.call_soon_threadsafe(_answer, batch)

    def _carry_out(self, batch: list[_Call], *, reading: bool) -> None:
        """One transaction for all of ``batch``: first without savepoints, which cost more than most writes, then with them if one
        of the calls failed. Where that fails too for what others did, each call gets a transaction of its own."""
        try:
            self._together(batch, reading=reading, apart=reading or len(batch) == 1)
        except Exception as error:
            if len(batch) == 1 and not is_collision(error):
                batch[0].error = error
                return
        else:
            return
        try:
            self._together(batch, reading=reading, apart=True)
        except Exception as error:
            if is_collision(error):
                for call in batch:
                    self._alone(call, reading=reading)
                return
            # The transaction as a whole failed: nobody's change was kept.
            for call in batch:
                call.error = call.error or error

    def _together(self, batch: list[_Call], *, reading: bool, apart: bool) -> None:
        """All calls in one transaction; ``apart``: the fault of one is its own, else it undoes everything and is raised."""
        with self._transaction(reading=reading) as connection:
            lost = fence.lost(connection, {call.fence for call in batch if call.fence is not None})
            for call in batch:
                call.result = call.error = None
                if call.fence in lost:
                    call.error = call.fence.lost()
                elif apart:
                    _run(connection, call, savepoint=call.writes and len(batch) > 1)
                else:
                    call.result = call.function(connection)

    def _alone(self, call: _Call, *, reading: bool, tries: int = 5) -> None:
        """A call that collided, in a transaction of its own, until nobody is in its way."""
        for remaining in reversed(range(tries)):
            try:
                self._together([call], reading=reading, apart=True)
            except Exception as error:
                call.error = error
                if is_collision(error) and remaining:
                    continue
            return

    async def read_aside(self, function: Callable[..., Result], *args: Any) -> Result:
        """As ``read``, for long reads (many rows, large values): no reconciler waits for them."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._aside, True, function, args)

    async def write_aside(self, function: Callable[..., Result], *args: Any) -> Result:
        """As ``write``, for large values in a shared store that no lease guards; a SQLite file has one writer at a time."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._aside, False, function, args)

    def _aside(self, reading: bool, function: Callable[..., Result], args: tuple[Any, ...]) -> Result:
        with self._transaction(reading=reading) as connection:
            return function(connection, *args)


def _run(connection: Connection, call: _Call, *, savepoint: bool) -> None:
    """Run one call of a batch. Its own fault is kept for its caller; a full disk or a collision ends the whole transaction."""
    try:
        if savepoint:
            with connection.begin_nested():
                call.result = call.function(connection)
        else:
            call.result = call.function(connection)
    except Exception as error:
        if is_full(error) or is_collision(error) or (call.writes and not savepoint):
            raise
        call.error = error


def _answer(batch: list[_Call]) -> None:
    for call in batch:
        call.answer()
