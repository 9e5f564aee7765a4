"""The way from Jupyter's loop to the engine's unix socket: requests, streams, and the event relay.

One implementation of the API serves kernels and browsers; it works as well when another server hosts the engine. Requests go
out as HTTP/1.0, whose answers simply end: a stream is then read piece by piece, no faster than its reader takes it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

API = "/dstack_jupyter/api/v1"
SCHEMA = "https://dstack-jupyter.readthedocs.io/events/dstack_jupyter/resource/v1"
PAUSE = 5.0
"""Seconds between two looks for an engine to relay events of."""
ANSWER = 60.0
"""Seconds until an answer must begin; how long it goes on is its own affair."""
PIECE = 1 << 16


def engine_socket() -> str:
    """The socket of the engine of our home, '' if none runs."""
    from dstack_jupyter.models import endpoint
    from dstack_jupyter.models.home import Home

    known = endpoint.read(Home.default())
    return known.socket if known is not None else ""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    reader: asyncio.StreamReader

    async def pieces(self) -> AsyncIterator[bytes]:
        while data := await self.reader.read(PIECE):
            yield data


@asynccontextmanager
async def ask(path: str, method: str = "GET", body: bytes = b"", user: str = "", *, files: bool = False) -> AsyncIterator[Answer]:
    """The engine's answer. ``files``: the user may read the files of this account.

    An error status is an answer. Raises ConnectionError when there is no engine, TimeoutError.
    """
    socket = engine_socket()
    if not socket:
        raise ConnectionError("no engine runs")
    reader, writer = await asyncio.open_unix_connection(socket, limit=1 << 20)
    try:
        # One line each: what a user could write into them must not begin another.
        lines = [f"{method} {path} HTTP/1.0", f"X-Dstack-User: {''.join(user.split())}", f"X-Dstack-Files: {int(files)}"]
        lines.append(f"Content-Length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body)
        await writer.drain()
        async with asyncio.timeout(ANSWER):
            head = await reader.readuntil(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        fields = (line.partition(":") for line in rest if line)
        yield Answer(int(first.split()[1]), {name.lower(): value.strip() for name, _, value in fields}, reader)
    except asyncio.IncompleteReadError as error:
        raise ConnectionError("the engine closed the connection") from error
    finally:
        writer.close()


async def relay_events(logger: Any) -> None:
    """Emit the engine's events on Jupyter's event bus, until cancelled. Never starts an engine; never dies of one."""
    after = 0
    while True:
        try:
            after = await _relay(logger, after)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # The engine may be gone for now, or not here yet: that is its host's affair.
            log.debug("event relay: %s", error)
        await asyncio.sleep(PAUSE)


async def _relay(logger: Any, after: int) -> int:
    async with ask(f"{API}/info") as info:
        if not json.loads(await info.reader.read())["store_open"]:
            return after
    async with ask(f"{API}/events?project=main&follow=1&after={after}") as stream:
        while line := await stream.reader.readline():
            event = json.loads(line)
            if event.get("kind") not in ("run", "instance", "fleet"):
                continue
            after = max(after, event["seq"])
            data = {"kind": event["kind"], "id": event["id"], "project": event["project"], "state": event["action"]}
            logger.emit(schema_id=SCHEMA, data={**data, "seq": event["seq"]})
    return after
