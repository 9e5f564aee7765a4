"""Opens the database and runs transactions off the loop.

SQLite: WAL with ``synchronous=FULL`` (a commit that was answered survives a power cut). One thread serves the reconcilers; two
more serve reads that may be long. The functions that run inside are plain and synchronous, take a ``Connection`` and can be
tested without a loop.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError

from ...models.errors import StorageFull
from ...models.home import Home
from ..vault import FileKeys, Vault
from . import migrate, sealed
from .schema import sealed_values

Result = TypeVar("Result")

FULL_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
BATCH = 64
"""Writes that one commit carries at most."""
FULL_HINT = "free some disk space; nothing was lost, work goes on by itself as soon as there is room"


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error: SQLite then ends the whole transaction, so a savepoint's end may fail after it."""
    while error is not None:
        original = getattr(error, "orig", error)
        # IOERR is what a full tmpfs or quota answers to the WAL's growth.
        if isinstance(original, sqlite3.OperationalError) and original.sqlite_errorcode & 0xFF in FULL_CODES:
            return True
        error = error.__context__
    return False


def _make_engine(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False, "timeout": 30.0},
        hide_parameters=True,  # an error's text may reach a log; a configuration's env must not
        pool_size=4,
        max_overflow=0,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: Any) -> None:
        # We say BEGIN ourselves: the module's own would begin only before a write, and never IMMEDIATE.
        connection.isolation_level = None
        # What is wiped leaves no copy in the page that it stood on.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000", "secure_delete=FAST"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A reader that is asked to write later could fail half-way; a writer takes its lock at once.
        reading = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


@dataclass(slots=True)
class _Call:
    """One caller's function on its way through the store's thread."""

    function: Callable[[Connection], Any]
    future: asyncio.Future[Any]
    writes: bool
    result: Any = None
    error: BaseException | None = None

    def answer(self) -> None:
        """On the loop, after the commit. A caller that was cancelled meanwhile has no use for it."""
        if self.future.cancelled():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)


class Database:
    """The store's connection to its database. Made, opened and closed by the engine on its loop.

    Calls that wait for the thread together share one transaction, writes each in a savepoint of its own: one sync of the disk
    serves many runs, and the fault of one function undoes only that function.
    """

    def __init__(self, path: Path, vault: Vault | None = None) -> None:
        """``vault`` seals columns; None: the one whose keys lie beside a SQLite file, as in a home."""
        self._path = path
        self._vault = vault or Vault(FileKeys.of(Home(path.parent)))
        self._engine: Engine | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dj-store")
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="dj-store-read")
        self._waiting: deque[_Call] = deque()
        self._draining = False
        self._lock = threading.Lock()

    async def open(self) -> None:
        """Make or upgrade the database. Raises StorageFull, EngineError, ConfigurationError (its key is not here)."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    def _open(self) -> None:
        if not self._path.exists():
            # 0600 from the first byte; SQLite gives the WAL files the same mode as the database.
            self._path.touch(mode=0o600)
        self._engine = _make_engine(self._path)
        sealed.attach(self._engine, self._vault)
        with self._transaction(reading=False) as connection:
            migrate.upgrade(connection)
            sealed.verify(connection, self._vault, sealed_values)

    async def close(self) -> None:
        """Wait for what is running, then close. Later calls fail."""
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._thread.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        if self._engine is not None:
            self._engine.dispose()

    @contextmanager
    def _transaction(self, *, reading: bool) -> Iterator[Connection]:
        assert self._engine is not None, "the database was not opened"
        try:
            with self._engine.connect().execution_options(reading=reading) as connection, connection.begin():
                yield connection
        except DatabaseError as error:
            if _is_full(error):
                raise StorageFull(f"the disk that holds {self._path.parent} is full", hint=FULL_HINT) from error
            raise

    async def write(self, function: Callable[..., Result], *args: Any) -> Result:
        """Run ``function(connection, *args)`` as one transaction; committed when this returns.

        A caller that is cancelled does not undo or interrupt a commit under way. Raises what the function raises, and
        StorageFull when the disk is full (then nothing was changed).
        """
        return await self._call(function, args, writes=True)

    async def read(self, function: Callable[..., Result], *args: Any) -> Result:
        """Run a short ``function(connection, *args)`` on a consistent snapshot."""
        return await self._call(function, args, writes=False)

    async def _call(self, function: Callable[..., Result], args: tuple[Any, ...], *, writes: bool) -> Result:
        loop = asyncio.get_running_loop()
        call = _Call(lambda connection: function(connection, *args), loop.create_future(), writes)
        with self._lock:
            self._waiting.append(call)
            if not self._draining:
                self._draining = True
                self._thread.submit(self._drain, loop)
        result: Result = await call.future
        return result

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the store's thread: everything that waits, until nothing does."""
        while True:
            with self._lock:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                if not batch:
                    self._draining = False
                    return
            writes = sum(call.writes for call in batch)
            try:
                with self._transaction(reading=not writes) as connection:
                    for call in batch:
                        _carry_out(connection, call, savepoint=call.writes and len(batch) > 1)
            except Exception as error:
                # The transaction as a whole failed: nobody's change was kept.
                for call in batch:
                    call.error = call.error or error
            loop.call_soon_threadsafe(_answer, batch)

    async def read_aside(self, function: Callable[..., Result], *args: Any) -> Result:
        """As ``read``, for what may take long (many rows, large values): it keeps no reconciler waiting."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, function, args)

    def _read(self, function: Callable[..., Result], args: tuple[Any, ...]) -> Result:
        with self._transaction(reading=True) as connection:
            return function(connection, *args)


def _carry_out(connection: Connection, call: _Call, *, savepoint: bool) -> None:
    """Run one call of a batch. Its own fault is kept for its caller; a full disk ends the whole transaction."""
    try:
        if savepoint:
            with connection.begin_nested():
                call.result = call.function(connection)
        else:
            call.result = call.function(connection)
    except Exception as error:
        if _is_full(error) or (call.writes and not savepoint):
            raise
        call.error = error


def _answer(batch: list[_Call]) -> None:
    for call in batch:
        call.answer()
