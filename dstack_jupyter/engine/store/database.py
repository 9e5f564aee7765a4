"""Opens the database and runs transactions off the loop.

SQLite: WAL with ``synchronous=FULL`` (a commit that was answered survives a power cut), one thread writes, two read. The
functions that run inside are plain and synchronous, take a ``Connection`` and can be tested without a loop.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError

from ...models.errors import StorageFull
from . import migrate

Result = TypeVar("Result")

FULL_HINT = "free some disk space; nothing was lost, work goes on by itself as soon as there is room"


def _is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error: SQLite then ends the whole transaction, so a savepoint's end may fail after it."""
    while error is not None:
        original = getattr(error, "orig", error)
        if isinstance(original, sqlite3.OperationalError):
            # IOERR is what a full tmpfs or quota answers to the WAL's growth.
            if original.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
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
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A reader that is asked to write later could fail half-way; a writer takes its lock at once.
        reading = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


class Database:
    """The store's connection to its database. Made, opened and closed by the engine on its loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine: Engine | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="dj-store-write")
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="dj-store-read")

    async def open(self) -> None:
        """Make or upgrade the database. Raises StorageFull, EngineError."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self._open)

    def _open(self) -> None:
        if not self._path.exists():
            # 0600 from the first byte; SQLite gives the WAL files the same mode as the database.
            self._path.touch(mode=0o600)
        self._engine = _make_engine(self._path)
        self._guarded(migrate.upgrade, reading=False)

    async def close(self) -> None:
        """Wait for what is running, then close. Later calls fail."""
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._writer.shutdown(wait=True)
        self._readers.shutdown(wait=True)
        if self._engine is not None:
            self._engine.dispose()

    def _guarded(self, function: Callable[..., Result], *args: Any, reading: bool) -> Result:
        assert self._engine is not None, "the database was not opened"
        try:
            with self._engine.connect().execution_options(reading=reading) as connection, connection.begin():
                return function(connection, *args)
        except DatabaseError as error:
            if _is_full(error):
                raise StorageFull(f"the disk that holds {self._path.parent} is full", hint=FULL_HINT) from error
            raise

    async def write(self, function: Callable[..., Result], *args: Any) -> Result:
        """Run ``function(connection, *args)`` as one transaction; committed when this returns.

        Shielded: a caller that is cancelled does not undo or interrupt a commit under way. Raises what the function raises,
        and StorageFull when the disk is full (then nothing was changed).
        """
        loop = asyncio.get_running_loop()
        return await asyncio.shield(
            loop.run_in_executor(self._writer, lambda: self._guarded(function, *args, reading=False))
        )

    async def read(self, function: Callable[..., Result], *args: Any) -> Result:
        """Run ``function(connection, *args)`` on a consistent snapshot."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, lambda: self._guarded(function, *args, reading=True))
