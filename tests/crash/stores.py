"""A fresh store for each trial, quickly, on either database; and what it holds, read behind every engine's back."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from dstack_jupyter.models.home import Home, write_private
from tests.postgres import Server

MEMORY = Path("/dev/shm")
KEPT = ("alembic_version", "sealed_values")
"""Tables that a fresh store has filled."""
TIME = """
CREATE SCHEMA virtual;
CREATE FUNCTION virtual.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS
$$ SELECT CASE WHEN coalesce(current_setting('dj.now', true), '') = '' THEN pg_catalog.clock_timestamp()
   ELSE to_timestamp(current_setting('dj.now')::float8) END $$;
"""


def folder() -> Path:
    """In memory where that is to be had: what is tested is who does what when, not a disk."""
    return Path(tempfile.mkdtemp(prefix="dj-crash-", dir=MEMORY if MEMORY.is_dir() else None))


class Store:
    """``home`` is a state folder that outlives the lives of one trial; ``renew`` empties it for the next."""

    kind: str
    home: Home

    def renew(self) -> Home:
        raise NotImplementedError

    def _empty(self) -> None:
        for path in self.home.code.iterdir():
            path.unlink()
        for path in self.home.jobs.iterdir():
            path.rmdir()

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        raise NotImplementedError

    def remove(self) -> None:
        raise NotImplementedError


class SQLite(Store):
    kind = "sqlite"

    def __init__(self) -> None:
        self._folder = folder()
        self.home = Home(self._folder / "state")
        self._template = self._folder / "empty.db"
        self._connection: sqlite3.Connection | None = None

    def renew(self) -> Home:
        if not self._template.exists():
            _make(self.home)
            shutil.copy(self.home.store, self._template)
        self._close()
        self._empty()
        for path in self.home.root.glob("store.db*"):
            path.unlink()
        shutil.copy(self._template, self.home.store)
        return self.home

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        if self._connection is None:
            self._connection = sqlite3.connect(self.home.store, isolation_level=None, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
        return [dict(row) for row in self._connection.execute(statement, values)]

    def remove(self) -> None:
        self._close()
        shutil.rmtree(self._folder, ignore_errors=True)


class PostgreSQL(Store):
    kind = "postgresql"

    def __init__(self, server: Server) -> None:
        import psycopg
        from psycopg.rows import dict_row

        self._server = server
        self._folder = folder()
        self.database = server.create(template="template1")
        self.home = Home(self._folder / "state")
        write_private(self.home.create().database, server.url(self.database).reveal().encode())
        for statement in (TIME, f"ALTER DATABASE {self.database} SET search_path = public, virtual, pg_catalog"):
            server.execute(statement, self.database)
        _make(self.home)
        self._connection: Any = psycopg.connect(server.url(self.database).reveal(), autocommit=True, row_factory=dict_row)
        tables = self.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        self._tables = ", ".join(row["tablename"] for row in tables if row["tablename"] not in KEPT)

    def renew(self) -> Home:
        self._empty()
        self._connection.execute(f"TRUNCATE {self._tables} CASCADE")
        return self.home

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._connection.execute(statement.replace("?", "%s"), values).fetchall()
        return found

    def remove(self) -> None:
        self._connection.close()
        self._server.drop(self.database)
        shutil.rmtree(self._folder, ignore_errors=True)


def _make(home: Home) -> None:
    """An empty store with its tables: an engine's that has lived and ended."""
    from tests.simulated.life import Life
    from tests.simulated.loop import Clock
    from tests.simulated.world import World

    life = Life(home, World(Clock()))

    async def nothing(_: Any) -> None:
        return

    life.run(nothing)
    life.end()
