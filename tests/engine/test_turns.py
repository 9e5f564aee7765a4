"""Whose turn it is where several runs waited for one host and are woken together: on both databases."""

from __future__ import annotations

from functools import partial
from typing import Any

from sqlalchemy import Connection, select, update

from dstack_jupyter.engine.names import new_id
from dstack_jupyter.engine.provisioning import placement
from dstack_jupyter.engine.steps.attempt import End
from dstack_jupyter.engine.store import moves, runs
from dstack_jupyter.engine.store.columns import now
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.engine.store.rows import run_row
from dstack_jupyter.engine.store.schema import attempts
from dstack_jupyter.engine.store.schema import runs as runs_table
from dstack_jupyter.models.states import AttemptState, Reason
from tests.engine.test_store import submission


async def waits(database: Database, name: str, **more: Any) -> runs.Submission:
    """A run that got no host, and looks for one again at this moment."""
    retry = {"on_events": ["no-capacity"], "duration": "1h"}
    new = submission(name, configuration={"type": "task", "commands": ["true"], "retry": retry, **more})
    await database.write(runs.submit, new)
    end = End(AttemptState.FAILED, Reason.NO_CAPACITY, "all hosts are busy", None)
    await database.write(moves.end_attempt, new.attempt_ids[0], end)
    await database.write(runs.insert_attempts, new.run_id, 1, new_id)
    return new


async def first(database: Database, run: runs.Submission) -> bool:
    def ask(connection: Connection) -> bool:
        row = run_row(connection.execute(select(runs_table).where(runs_table.c.id == run.run_id)).one())
        return placement.somebody_first(connection, row)

    return not await database.read(ask)


async def test_the_higher_priority_comes_first_then_who_is_longer_there(database: Database) -> None:
    low = await waits(database, "low")
    high = await waits(database, "high", priority=9)
    later = await waits(database, "later")
    assert [await first(database, each) for each in (low, high, later)] == [False, True, False]
    await database.write(partial(_placed, run=high))
    assert [await first(database, each) for each in (low, later)] == [True, False]


def _placed(connection: Connection, run: runs.Submission) -> None:
    mine = (attempts.c.run_id == run.run_id) & (attempts.c.state == AttemptState.SUBMITTED)
    connection.execute(update(attempts).where(mine).values(state=AttemptState.PROVISIONING))


async def test_nobody_waits_for_ever_for_one_that_does_not_get_on(database: Database) -> None:
    low = await waits(database, "low")
    high = await waits(database, "high", priority=9)
    assert not await first(database, low)

    def long_ago(connection: Connection) -> None:
        mine = attempts.c.run_id == high.run_id
        connection.execute(update(attempts).where(mine).values(submitted_at=now() - 11))

    await database.write(long_ago)
    assert await first(database, low)


async def test_a_run_that_never_waited_holds_up_nobody(database: Database) -> None:
    fresh = submission("fresh", configuration={"type": "task", "priority": 9})
    await database.write(runs.submit, fresh)
    low = await waits(database, "low")
    assert await first(database, low)
