"""Wakes between engines that share a PostgreSQL database: LISTEN and NOTIFY on one channel.

A notification says where to look, never what happened, as every wake here. One that is lost only delays: the queue's guards and
the leases' beat come anyway, and after a broken connection everybody looks.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, text

from ...models.errors import DstackJupyterError
from ...models.secret import Secret, redact
from ..store.connect import driver_url
from ..store.database import Database

log = logging.getLogger(__name__)

CHANNEL = "dstack_jupyter"
TOGETHER = 0.01
"""Seconds in which wakes only collect: many become one statement."""
LONGEST = 7000
"""Bytes of one notification; PostgreSQL takes 7,999."""
AGAIN = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds until a broken connection is tried again."""
NOTIFY = text("SELECT pg_notify(:channel, :payload)")


def payloads(sender: str, lines: Sequence[str]) -> list[str]:
    """``lines`` in as few notifications as hold them, each with its sender first."""
    notices: list[str] = []
    current = sender
    for line in lines:
        if len(current) + len(line) + 1 > LONGEST:
            notices.append(current)
            current = sender
        current += "\n" + line
    return [*notices, current]


class Relay:
    """For the engine's loop. ``on_notify`` gets each line of another engine; ``resync`` is called when some were missed."""

    def __init__(
        self, database: Database, where: Secret, sender: str, on_notify: Callable[[str], None], resync: Callable[[], None]
    ) -> None:
        self._database = database
        self._where = where
        self._sender = sender
        self._on_notify = on_notify
        self._resync = resync
        self._waiting: dict[str, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Task[None] | None = None
        # Not the caller's: who tells us something may be fenced, and what we write is nobody's work.
        self._context = contextvars.Context()

    async def start(self) -> None:
        self._listening = asyncio.get_running_loop().create_task(self._listen(), name="relay", context=self._context)

    def tell(self, line: str) -> None:
        """Say a line to all other engines, soon."""
        self._waiting[line] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TOGETHER, self._flush, context=self._context)

    def _flush(self) -> None:
        self._timer = None
        task = asyncio.get_running_loop().create_task(self._send(), context=self._context)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _send(self) -> None:
        lines, self._waiting = list(self._waiting), {}
        try:
            await self._database.write(_notify, payloads(self._sender, lines))
        except DstackJupyterError as error:
            log.info("%d wakes were not told: %s", len(lines), error.message)

    async def _listen(self) -> None:
        import psycopg

        failures = 0
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(
                    driver_url(self._where), autocommit=True, connect_timeout=10, application_name="dstack_jupyter relay"
                )
                async with connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    failures = 0
                    self._resync()
                    async for notice in connection.notifies():
                        self._take(notice.payload)
            except psycopg.Error as error:
                if not failures:
                    log.warning("no wakes from other engines for now: %s", redact(str(error)).strip())
                failures += 1
            await asyncio.sleep(AGAIN[min(failures, len(AGAIN)) - 1])

    def _take(self, payload: str) -> None:
        sender, *lines = payload.split("\n")
        if sender != self._sender:
            for line in lines:
                self._on_notify(line)

    async def stop(self) -> None:
        """Says what is still to be said."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})
        if self._timer is not None:
            self._timer.cancel()
        if self._waiting:
            await self._send()
        if self._sending:
            await asyncio.wait(self._sending)


def _notify(connection: Connection, lines: Sequence[str]) -> None:
    for payload in lines:
        connection.execute(NOTIFY, {"channel": CHANNEL, "payload": payload})
