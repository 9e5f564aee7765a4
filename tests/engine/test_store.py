"""The store on a real SQLite file and on a real PostgreSQL: what its constraints and guards refuse, whoever writes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from dstack_jupyter.engine.keys.vault import Vault
from dstack_jupyter.engine.names import new_id
from dstack_jupyter.engine.process.peek import store_has_unfinished
from dstack_jupyter.engine.steps.attempt import End
from dstack_jupyter.engine.store import events, logs, moves, runs, work
from dstack_jupyter.engine.store.columns import metadata, now
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.engine.store.schema import TERMINAL_RULES, attempts, fleets, instances, log_chunks
from dstack_jupyter.engine.store.schema import runs as runs_table
from dstack_jupyter.models.errors import Conflict, EngineError, NotFound, StorageFull
from dstack_jupyter.models.instances import Guard
from dstack_jupyter.models.offers import OfferView
from dstack_jupyter.models.secret import Secret
from dstack_jupyter.models.states import AttemptState, InstanceState, Reason, RunState


def submission(name: str = "train", **more: Any) -> runs.Submission:
    values: dict[str, Any] = {
        "run_id": new_id(),
        "attempt_ids": [new_id()],
        "next_at": None,
        "fleet_id": new_id(),
        "project": "main",
        "name": name,
        "type": "task",
        "request_key": new_id(),
        "user": "ada",
        "configuration": {"type": "task"},
        "code": [],
        "context": {"cwd": "/"},
    }
    return runs.Submission(**{**values, **more})


def ended(state: AttemptState = AttemptState.DONE) -> End:
    return End(state, Reason.DONE_BY_RUNNER, "", 0)


async def test_migrations_and_schema_are_the_same(database: Database) -> None:
    def differences(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return list(compare_metadata(context, metadata))

    assert await database.read(differences) == []


async def test_files_are_private_from_the_first_byte(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        database = Database(tmp_path / "store.db")
        await database.open()
        await database.write(runs.submit, submission())
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
        await database.close()
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}, modes
    assert "store.db-wal" in modes


async def test_commits_survive_a_power_cut(database: Database) -> None:
    def settings(connection: Connection) -> list[Any]:
        if database.shared:  # fsync is the server's own, and off in tests
            return [connection.execute(text("SHOW synchronous_commit")).scalar()]
        return [connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("journal_mode", "synchronous")]

    assert await database.read(settings) == (["on"] if database.shared else ["wal", 2])


async def test_a_store_of_a_newer_version_is_refused(database: Database, where: Path | Secret, vault: Vault) -> None:
    await database.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    again = Database(where, vault)
    with pytest.raises(EngineError, match="newer version"):
        await again.open()
    await again.close()


def start_over(connection: Connection, table: str, state: str) -> None:
    """Give every row of a table a state although it has ended."""
    trigger = f"{table}_end_is_final"
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}"))
        connection.execute(text(f"UPDATE {table} SET state = '{state}'"))
        connection.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER {trigger}"))
        return
    made = connection.execute(text("SELECT sql FROM sqlite_master WHERE name = :name"), {"name": trigger}).scalar_one()
    connection.execute(text(f"DROP TRIGGER {trigger}"))
    connection.execute(text(f"UPDATE {table} SET state = '{state}'"))
    connection.exec_driver_sql(made)


@pytest.mark.parametrize(("table", "end"), TERMINAL_RULES)
async def test_r4_nothing_leaves_an_end_state(database: Database, table: str, end: frozenset[str]) -> None:
    """F51 dstack#3130."""
    new = submission()
    await database.write(runs.submit, new)
    await database.write(
        lambda c: c.execute(
            insert(instances).values(
                id="i1",
                identity="dj-x-1",
                project="main",
                fleet_id=new.fleet_id,
                attempt_id=new.attempt_ids[0],
                backend="local",
                region="local",
                instance_type="local",
                price=0,
                offer={},
                data={},
                guard={},
                state="pending",
                created_at=0,
            )
        )
    )
    live = {"runs": "running", "attempts": "running", "instances": "busy", "fleets": "active"}[table]
    for state in end:
        await database.write(lambda c: c.execute(text(f"UPDATE {table} SET state = '{live}'")))
        await database.write(lambda c, s=state: c.execute(text(f"UPDATE {table} SET state = '{s}'")))
        with pytest.raises(IntegrityError, match="an end state is final"):
            await database.write(lambda c: c.execute(text(f"UPDATE {table} SET state = '{live}'")))
        # Start over for the next end state: as a human with a shell could, not as our code can.
        await database.write(start_over, table, live)


async def test_r2_a_second_active_instance_for_an_attempt_is_refused(database: Database) -> None:
    """F17 dstack#990."""
    new = submission()
    await database.write(runs.submit, new)

    def add(connection: Connection, number: int) -> None:
        connection.execute(
            insert(instances).values(
                id=f"i{number}",
                identity=f"dj-x-{number}",
                project="main",
                fleet_id=new.fleet_id,
                attempt_id=new.attempt_ids[0],
                backend="local",
                region="local",
                instance_type="local",
                price=0,
                offer={},
                data={},
                guard={},
                state="pending",
                created_at=0,
            )
        )

    await database.write(add, 1)
    with pytest.raises(IntegrityError):
        await database.write(add, 2)
    await database.write(moves.move_instance, "i1", "terminated")
    await database.write(add, 2)


async def test_an_unknown_state_is_refused(database: Database) -> None:
    await database.write(runs.submit, submission())
    with pytest.raises(IntegrityError, match="state_known"):
        await database.write(lambda c: c.execute(update(runs_table).values(state="stuck")))


async def test_r15_the_same_request_is_one_run_even_at_once(database: Database) -> None:
    requests = [submission(request_key="k") for _ in range(8)]
    answers = await asyncio.gather(*(database.write(runs.submit, request) for request in requests))
    assert len({view.id for view, _ in answers}) == 1
    assert sorted(new for _, new in answers) == [False] * 7 + [True]
    assert len(await database.read(lambda c: c.execute(select(fleets.c.id)).all())) == 1, "what was refused left its fleet"


async def test_an_active_name_is_taken_and_a_finished_one_is_free(database: Database) -> None:
    first = submission()
    await database.write(runs.submit, first)
    with pytest.raises(Conflict, match="'train' is active") as caught:
        await database.write(runs.submit, submission())
    assert "%dstack attach train" in caught.value.hint
    assert await database.write(moves.end_attempt, first.attempt_ids[0], ended()) == RunState.DONE
    second = submission()
    view, new = await database.write(runs.submit, second)
    assert (view.id, new) == (second.run_id, True)
    assert await database.read(runs.find, "train", "main") == second.run_id
    assert await database.read(runs.find, first.run_id, "main") == first.run_id


async def test_a_refused_name_leaves_nothing_behind(database: Database) -> None:
    await database.write(runs.submit, submission())
    with pytest.raises(Conflict):
        await database.write(runs.submit, submission())
    assert len([each for each in await database.read(work.unfinished) if each.kind == "fleet"]) == 1


async def test_an_unknown_run_names_the_recent_ones(database: Database) -> None:
    await database.write(runs.submit, submission("alpha"))
    with pytest.raises(NotFound) as caught:
        await database.read(runs.find, "beta", "main")
    assert "alpha" in caught.value.hint


class TestLog:
    async def test_r13_bytes_are_stored_once_and_only_where_the_log_ends(self, database: Database) -> None:
        """F57 dstack#1814."""
        new = submission()
        await database.write(runs.submit, new)
        assert await database.write(logs.append, new.attempt_ids[0], 0, b"hello ")
        assert not await database.write(logs.append, new.attempt_ids[0], 0, b"hello ")
        assert not await database.write(logs.append, new.attempt_ids[0], 10, b"late")
        assert await database.write(logs.append, new.attempt_ids[0], 6, b"world")
        chunks = await database.read(logs.read, new.attempt_ids[0], 0, 1000)
        assert b"".join(chunk.data or b"" for chunk in chunks) == b"hello world"

    async def test_reading_begins_at_any_byte(self, database: Database) -> None:
        new = submission()
        await database.write(runs.submit, new)
        whole = b""
        for piece in (b"abc", b"d", b"efghij"):
            await database.write(logs.append, new.attempt_ids[0], len(whole), piece)
            whole += piece
        for offset in range(len(whole) + 2):
            chunks = await database.read(logs.read, new.attempt_ids[0], offset, 1000)
            assert b"".join(chunk.data or b"" for chunk in chunks) == whole[offset:]
            assert not chunks or chunks[0].offset == offset

    async def test_a_gap_is_a_record_with_its_range(self, database: Database) -> None:
        new = submission()
        await database.write(runs.submit, new)
        await database.write(logs.append, new.attempt_ids[0], 0, b"abc")
        await database.write(logs.gap, new.attempt_ids[0], 3, 100, "log_limit")
        await database.write(logs.append, new.attempt_ids[0], 103, b"d")
        found = [(c.offset, c.length, c.data) for c in await database.read(logs.read, new.attempt_ids[0], 0, 1000)]
        assert found == [(0, 3, b"abc"), (3, 100, None), (103, 1, b"d")]

    async def test_a_crash_between_bytes_and_offset_stores_neither(self, database: Database) -> None:
        new = submission()
        await database.write(runs.submit, new)

        def half(connection: Connection) -> None:
            logs.append(connection, new.attempt_ids[0], 0, b"abc")
            raise RuntimeError("crash")

        with pytest.raises(RuntimeError):
            await database.write(half)
        assert await database.read(lambda c: c.execute(select(log_chunks)).all()) == []
        assert await database.read(lambda c: c.execute(select(attempts.c.log_offset)).scalar()) == 0


async def test_a_run_goes_on_while_one_of_its_jobs_does(database: Database) -> None:
    new = submission(attempt_ids=[new_id(), new_id()], configuration={"type": "task", "nodes": 2})
    await database.write(runs.submit, new)
    for attempt_id in new.attempt_ids:
        await database.write(moves.move_attempt, attempt_id, AttemptState.RUNNING)
    assert await database.write(moves.end_attempt, new.attempt_ids[0], ended()) == RunState.RUNNING
    assert await database.write(moves.end_attempt, new.attempt_ids[1], ended()) == RunState.DONE


async def test_gpus_are_free_when_their_instance_is_gone_and_not_before(database: Database) -> None:
    new = submission()
    await database.write(runs.submit, new)
    fleet, run, _, none = await database.read(moves.load_fleet, new.fleet_id)
    assert not none
    machine = {"region": "here", "instance_type": "here", "cpus": 1, "memory_gb": 1, "disk_gb": 1, "cpu_arch": "x86_64"}
    offer = OfferView.model_validate({**machine, "backend": "local", "price": 0, "spot": False, "gpu_count": 2})

    def want(connection: Connection) -> None:
        guard = Guard(kind="none", text="")
        moves.want_instance(
            connection,
            instance_id="i",
            identity="dj-i",
            attempt_id=new.attempt_ids[0],
            fleet=fleet,
            run_id=run.id,
            offer=offer,
            guard=guard,
            host="here",
            gpus=[0, 1],
        )

    await database.write(want)
    _, _, instance = await database.read(moves.load_attempt, new.attempt_ids[0])
    _, _, _, rows = await database.read(moves.load_fleet, new.fleet_id)
    assert instance is not None
    assert [instance.id, *(row.id for row in rows)] == ["i", "i"]
    for state, left in ((InstanceState.IDLE, {0, 1}), (InstanceState.TERMINATING, {0, 1}), (InstanceState.TERMINATED, set())):
        await database.write(moves.move_instance, "i", state)
        assert await database.read(moves.claimed_gpus, "here") == left


async def test_a_late_end_does_not_overwrite_the_first(database: Database) -> None:
    """F49 skypilot#7707."""
    new = submission()
    await database.write(runs.submit, new)
    await database.write(moves.end_attempt, new.attempt_ids[0], ended())
    late = End(AttemptState.FAILED, Reason.EXECUTOR_ERROR, "late", 1)
    assert await database.write(moves.end_attempt, new.attempt_ids[0], late) == RunState.DONE
    view = await database.read(runs.view, new.run_id)
    assert (view.state, view.exit_code, view.message) == (RunState.DONE, 0, "")


async def test_a_stop_becomes_an_abort_but_never_the_reverse(database: Database) -> None:
    new = submission()
    await database.write(runs.submit, new)
    assert await database.write(runs.ask_to_end, new.run_id, "ada", False)
    assert not await database.write(runs.ask_to_end, new.run_id, "ada", False)
    assert await database.write(runs.ask_to_end, new.run_id, "ada", True)
    assert not await database.write(runs.ask_to_end, new.run_id, "ada", False)


async def test_events_say_who_what_when_and_why(database: Database) -> None:
    new = submission()
    await database.write(runs.submit, new)
    end = End(AttemptState.FAILED, Reason.EXITED_WITH_ERROR, "exit code 1", 1)
    await database.write(moves.end_attempt, new.attempt_ids[0], end)

    def read(connection: Connection) -> list[tuple[str, str, str]]:
        found = events.read(connection, project="main", after=0, limit=10, run_id=new.run_id)
        return [(event.actor, event.action, event.message) for event in found]

    assert await database.read(read) == [("ada", "submitted", ""), ("engine", "failed", "exit code 1")]


async def test_times_come_from_the_database(database: Database) -> None:
    moment = await database.read(lambda c: c.execute(select(now())).scalar())
    with sqlite3.connect(":memory:") as other:
        assert abs(moment - float(other.execute("SELECT strftime('%s', 'now')").fetchone()[0])) < 5


@pytest.mark.parametrize("where", ["sqlite"], indirect=True)
async def test_a_full_disk_is_said_and_changes_nothing(database: Database) -> None:
    # SQLite's own limit stands in for a full disk: it gives the same error code at the same place.
    pages = await database.read(lambda c: c.execute(text("PRAGMA page_count")).scalar())

    def fill(connection: Connection) -> None:
        connection.execute(text(f"PRAGMA max_page_count = {pages}"))
        for _ in range(2000):
            runs.submit(connection, submission(new_id()))

    with pytest.raises(StorageFull, match="is full") as caught:
        await database.write(fill)
    assert "nothing was lost" in caught.value.hint
    assert await database.read(runs.count_unfinished) == 0


@pytest.mark.parametrize("where", ["sqlite"], indirect=True)
async def test_a_host_can_tell_from_outside_whether_there_is_work(database: Database, tmp_path: Path) -> None:
    assert not store_has_unfinished(tmp_path / "absent.db")
    assert not store_has_unfinished(tmp_path / "store.db")
    new = submission()
    await database.write(runs.submit, new)
    assert store_has_unfinished(tmp_path / "store.db")
    await database.write(moves.close_fleet, new.fleet_id)
    assert not store_has_unfinished(tmp_path / "store.db")
    (tmp_path / "broken.db").write_bytes(b"not a database at all" * 100)
    assert store_has_unfinished(tmp_path / "broken.db")
