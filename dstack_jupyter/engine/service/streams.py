"""A run as a stream of frames: its state whenever it changes, its log byte for byte, an end."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable

from ...models.frames import EndFrame, Frame, GapFrame, LogFrame, RunFrame
from ...models.runs import RunView
from ..runtime.bus import Bus
from ..store import logs
from ..store.database import Database

PIECE = 1 << 18
"""Bytes of log that one read of the store takes for one follower."""

LOST = "these bytes are not in the store any more: it was damaged, or a part of it was restored from another day"


async def run_frames(
    database: Database,
    bus: Bus,
    view: Callable[[str], Awaitable[RunView]],
    run_id: str,
    offset: int,
    *,
    follow: bool,
    job: int = 0,
    attempt: str = "",
) -> AsyncIterator[Frame]:
    """Frames of one job's log from byte ``offset`` of ``attempt`` (its newest if '') on; the last one is an EndFrame.

    A job that is tried again goes on with the next attempt's log, from its beginning. The view is read before the log: a run
    seen ended has its whole log stored, so the read that follows is complete.
    """
    last: RunView | None = None
    with bus.subscribe(run_id) as changed:
        while True:
            changed.clear()
            current = await view(run_id)
            tried = [each for each in current.attempts if each.job == job]
            if last is None or _visible(current) != _visible(last):
                yield RunFrame(run=current)
                last = current
            if not attempt and tried:
                attempt = tried[-1].id
            at = next((number for number, each in enumerate(tried) if each.id == attempt), len(tried))
            for each in tried[at:]:
                if each.id != attempt:
                    attempt, offset = each.id, 0
                async for chunk in _stored(database, attempt, offset, each.log_size, current.submitted_at):
                    yield _frame(chunk)
                    offset = chunk.offset + chunk.length
            if current.ended or not follow:
                yield EndFrame(run=current)
                return
            await changed.wait()


async def _stored(database: Database, attempt_id: str, offset: int, end: int, since: float) -> AsyncIterator[logs.Chunk]:
    """What is stored from ``offset`` to ``end`` and beyond, without a break: what a damaged store has lost is a gap that says so.

    Offset and bytes are one transaction, so we lose nothing ourselves. ``since`` is the time of a gap that nothing follows.
    """
    while offset < end:
        chunks = await database.read_aside(logs.read, attempt_id, offset, PIECE)
        for chunk in chunks or [logs.Chunk(attempt_id, end, 0, since, b"")]:
            if chunk.offset > offset:
                yield logs.Chunk(attempt_id, offset, chunk.offset - offset, chunk.at, None, LOST)
            if chunk.length:
                yield chunk
            offset = chunk.offset + chunk.length


def _visible(view: RunView) -> tuple[object, ...]:
    """What makes a new run frame worth sending: not the growing cost and log size."""
    return (
        view.state,
        view.reason,
        view.message,
        view.backend,
        view.instance_type,
        tuple(c.message for c in view.conditions),
        view.attachment,
        view.tried,
        [machine.stuck for machine in view.machines],
    )


def _frame(chunk: logs.Chunk) -> Frame:
    if chunk.data is None:
        end = chunk.offset + chunk.length
        return GapFrame(attempt=chunk.attempt_id, offset=chunk.offset, end=end, at=chunk.at, reason=chunk.reason)
    data = base64.b64encode(chunk.data).decode("ascii")
    return LogFrame(attempt=chunk.attempt_id, offset=chunk.offset, at=chunk.at, data=data)


async def raw_log(database: Database, attempt_id: str, offset: int) -> AsyncIterator[bytes]:
    """The bytes that are stored of a log, from ``offset``."""
    while chunks := await database.read_aside(logs.read, attempt_id, offset, PIECE):
        for chunk in chunks:
            offset = chunk.offset + chunk.length
            if chunk.data:
                yield chunk.data
