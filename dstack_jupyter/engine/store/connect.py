"""One SQLAlchemy engine for each of the two databases, and one mapping of what they say when something is wrong."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from ...models.errors import ConfigurationError, DstackJupyterError, StorageFull, StoreUnavailable
from ...models.secret import Secret, redact

FULL_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
FULL_HINT = "free some disk space; nothing was lost, work goes on by itself as soon as there is room"
READ_ONLY = "25006"
AWAY = ("08", "57P", "53", "25P03", "57014", READ_ONLY, "55P03")
"""Beginnings of the SQLSTATEs of a database that is away, overloaded or read-only for now: trying again may help."""
COLLISION = ("40001", "40P01", "25P02")
"""SQLSTATEs of transactions in each other's way: each succeeds alone."""
BUSY = 30.0
"""Seconds that a write waits for another process's write transaction; ours never stand still so long."""
RESTED = 2.0
"""Seconds without use after which a connection is tested before its next use."""
STATEMENTS = 500
"""Prepared statements that a connection keeps at PostgreSQL at most."""
PATIENCE = 15000
"""Milliseconds that a transaction of ours may stand still at PostgreSQL. A stalled engine's locks end so."""


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error: SQLite then ends the whole transaction, so a savepoint's end may fail after it."""
    while error is not None:
        original = getattr(error, "orig", error)
        # IOERR is what a full tmpfs or quota answers to the WAL's growth.
        if isinstance(original, sqlite3.OperationalError) and original.sqlite_errorcode & 0xFF in FULL_CODES:
            return True
        if getattr(original, "sqlstate", None) == "53100":
            return True
        error = error.__context__
    return False


def is_collision(error: BaseException) -> bool:
    """Whether the transaction failed because of concurrent transactions."""
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "").startswith(COLLISION)


def cause_of(error: BaseException) -> BaseException:
    """The first error of the database: when a connection is lost inside a savepoint, SQLAlchemy's own error comes last."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, DBAPIError):
        cause = cause.__context__
    return cause or error


def translated(error: BaseException, where: Path | Secret) -> DstackJupyterError | None:
    """Our error for a database's error; None for a defect of ours."""
    if is_full(error):
        disk = f"the disk that holds {where.parent}" if isinstance(where, Path) else "the disk of the database server"
        return StorageFull(f"{disk} is full", hint=FULL_HINT)
    if not isinstance(error, DBAPIError):
        return None
    if isinstance(where, Path):
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
            return StoreUnavailable(
                f"another process holds {where.name} in the middle of a change and does not go on",
                hint="if it is stopped, let it go on: `kill -CONT PID`, the PID stands in engine.lock beside it",
            )
        return None
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if state.startswith(AWAY) or (not state and isinstance(error, OperationalError | InterfaceError)):
        lines = redact(str(error.orig)).strip().splitlines()
        return StoreUnavailable(
            f"the database does not answer ({lines[0] if lines else state})",
            hint="nothing was lost: work goes on by itself when it answers again",
        )
    if state.startswith("22") or isinstance(error, DataError):
        return ConfigurationError("a value of the request cannot be stored", hint="text must not hold NUL, numbers must fit")
    return None


def engine_for(where: Path | Secret) -> Engine:
    """An engine for a SQLite file or a PostgreSQL URL; nothing is connected yet. Raises ConfigurationError."""
    return _sqlite(where) if isinstance(where, Path) else _postgresql(where)


def _sqlite(path: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False, "timeout": BUSY},
        hide_parameters=True,  # an error's text may reach a log; a configuration's env must not
        pool_size=4,
        max_overflow=0,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: Any) -> None:
        # We say BEGIN ourselves: the module's own would begin only before a write, and never IMMEDIATE.
        connection.isolation_level = None
        # Wiped values leave no copy in their page.
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={int(BUSY * 1000)}",
            "secure_delete=FAST",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A reader that is asked to write later could fail half-way; a writer takes its lock at once.
        reading = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def _answers(connection: Any) -> bool:
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except Exception:  # psycopg's, which is imported only where it is installed
        return False
    return True


def driver_url(where: Secret) -> str:
    """The URL as libpq reads it. Raises ConfigurationError without repeating it."""
    try:
        url = make_url(where.reveal()).set(drivername="postgresql")
    except (ArgumentError, ValueError) as error:
        raise ConfigurationError("the URL of the database cannot be read") from error.with_traceback(None)
    Secret(str(url.password or ""))
    return url.render_as_string(hide_password=False)


@cache
def _cursor_class() -> type[Any]:
    """psycopg's cursor with a frugal ``description``: SQLAlchemy asks after each statement, to look at it once in its life."""
    import psycopg

    class Description(Sequence[tuple[Any, ...]]):
        def __init__(self, result: Any) -> None:
            self._result = result

        def __len__(self) -> int:
            return int(self._result.nfields)

        def __getitem__(self, index: Any) -> Any:
            if isinstance(index, slice):
                return [self[each] for each in range(len(self))[index]]
            number = range(len(self))[index]
            return (self._result.fname(number).decode(), self._result.ftype(number), None, None, None, None, None)

    class Cursor(psycopg.Cursor[Any]):
        @property
        def description(self) -> Any:
            result = self.pgresult
            return Description(result) if result is not None and result.nfields else None

    return Cursor


def _postgresql(where: Secret) -> Engine:
    url = make_url(driver_url(where)).set(drivername="postgresql+psycopg")
    try:
        engine = create_engine(
            url,
            connect_args={
                "connect_timeout": 10,
                "application_name": "dstack_jupyter",
                # A peer that vanished is noticed; a transaction of a stalled engine ends, and its locks with it.
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 30000,
                "options": f"-c idle_in_transaction_session_timeout={PATIENCE} -c lock_timeout={PATIENCE} "
                f"-c statement_timeout={4 * PATIENCE} -c synchronous_commit=on",
            },
            hide_parameters=True,
            pool_size=4,
            max_overflow=0,
            # The connection that was used last knows the statements best.
            pool_use_lifo=True,
        )
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "PostgreSQL needs a package that is not installed", hint='pip install "dstack-jupyter[postgres]"'
        ) from error

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        # All that we say often: a statement that is prepared anew each time costs more than one that never was.
        connection.prepared_max = STATEMENTS
        connection.cursor_factory = _cursor_class()

    @event.listens_for(engine, "checkin")
    def rest(_: Any, record: ConnectionPoolEntry) -> None:
        record.info["rests_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def ask(connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
        # A resting connection may have died; a test each time would cost as much as many a transaction.
        if time.monotonic() - record.info.get("rests_since", time.monotonic()) > RESTED and not _answers(connection):
            raise DisconnectionError

    @event.listens_for(engine, "handle_error")
    def note(context: ExceptionContext) -> None:
        # After a failover the old primary may be read-only: the next transaction asks for the address anew.
        if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
            context.is_disconnect = True

    return engine
