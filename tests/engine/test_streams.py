"""A log as its follower gets it, also from a store that has lost some of it."""

from __future__ import annotations

import asyncio
import base64

from sqlalchemy import Connection, delete

from dstack_jupyter.engine.runtime.bus import Bus
from dstack_jupyter.engine.service.streams import LOST, run_frames
from dstack_jupyter.engine.store import logs, runs
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.engine.store.schema import log_chunks
from dstack_jupyter.models.frames import EndFrame, GapFrame, LogFrame, RunFrame
from dstack_jupyter.models.runs import RunView
from tests.engine.test_store import submission

PIECES = (b"first\n", b"second\n", b"third\n")
ENDS = (6, 13, 19)


async def test_what_the_store_has_lost_of_a_log_is_a_gap_that_says_so(database: Database) -> None:
    """It made the engine ask for ever, or was left out without a word."""
    for lost in ((), (0,), (1,), (2,), (1, 2), (0, 1, 2)):
        new = submission(f"lost-{lost}")
        await database.write(_with_log, new, lost)
        for start in (0, 3, 8, sum(map(len, PIECES))):
            await _followed(database, new.run_id, lost, start)


def _with_log(connection: Connection, new: runs.Submission, lost: tuple[int, ...]) -> None:
    """A run whose log is PIECES, without those of these numbers."""
    runs.submit(connection, new)
    (attempt,) = new.attempt_ids
    offset = 0
    for number, piece in enumerate(PIECES):
        assert logs.append(connection, attempt, offset, piece)
        if number in lost:
            connection.execute(delete(log_chunks).where(log_chunks.c.attempt_id == attempt, log_chunks.c.offset == offset))
        offset += len(piece)


async def _followed(database: Database, run_id: str, lost: tuple[int, ...], start: int) -> None:
    async def view(run_id: str) -> RunView:
        return await database.read(runs.view, run_id)

    heard, kinds = start, []
    async with asyncio.timeout(20):
        async for frame in run_frames(database, Bus(), view, run_id, start, follow=False):
            match frame:
                case LogFrame():
                    data = base64.b64decode(frame.data)
                    assert frame.offset == heard
                    assert data == b"".join(PIECES)[heard : heard + len(data)]
                    heard += len(data)
                case GapFrame():
                    assert (frame.offset, frame.reason) == (heard, LOST)
                    heard = frame.end
            kinds.append(type(frame))
    assert heard == sum(map(len, PIECES))
    assert (kinds[0], kinds[-1]) == (RunFrame, EndFrame)
    assert (GapFrame in kinds) == any(ENDS[number] > start for number in lost)
