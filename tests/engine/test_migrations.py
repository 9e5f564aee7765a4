"""A store that an older version made: everything in it is there under the names of this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, MetaData, insert, select, text
from sqlalchemy.exc import IntegrityError

from dstack_jupyter.engine.keys.vault import Vault
from dstack_jupyter.engine.steps.run import DELAYS
from dstack_jupyter.engine.store import cloud_instances, migrate, sealed
from dstack_jupyter.engine.store.connect import engine_for
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.engine.store.schema import cloud_instances as cloud_table
from dstack_jupyter.engine.store.schema import cloud_resources, events, fleets, instances, runs
from dstack_jupyter.engine.store.schema_accounts import accounts, orphans
from dstack_jupyter.models.secret import Secret
from dstack_jupyter.models.states import Reason, WaitsFor

ENDED = 1_700_000_000.25
"""When the last attempts of the pending runs ended."""
SCHEDULE = 1_700_000_040.0
FLEET = {"id": "f", "project": "main", "name": "train", "run_id": None, "kind": "cloud", "message": "", "user": "ada"}
RENTED = {
    "account": "a1b2", "asked_at": 11.5, "rented_at": 12.5, "seen_at": 13.5, "absent_since": 14.5, "ending_at": 15.5,
    "told_at": 16.5, "idle_at": 17.5,
}  # fmt: skip
SEEN = {"word": "stopped", "said": "off", "address": "192.0.2.7", "internal_address": "", "user": "root", "port": 22}
ATTACHED = {
    "account": "a1b2", "kind": "disk", "identity": "dj-1-disk", "backend": "digitalocean", "project": "main",
    "instance_id": "i", "thing": "vol-9", "ours": 1, "data": {"size": 5}, "created_at": 10.5,
}  # fmt: skip
ACCOUNT = {
    "mark": "a1b2", "backend": "digitalocean", "project": "main", "first_used_at": 1.5, "swept_at": 2.5, "claimed_until": 3.5,
    "problem": "no entry",
}  # fmt: skip
STRAY = {
    "account": "a1b2", "kind": "instance", "thing": "77", "identity": "dj-9", "verdict": "unknown", "said": "active",
    "region": "ams3", "price": 0.5, "first_seen_at": 4.5, "seen_at": 5.5, "told_at": 6.5,
}  # fmt: skip
LACKING, CRASHED, SERVER = Reason.NO_CAPACITY, Reason.EXITED_WITH_ERROR, Reason.ENDED_BY_SERVER
# Name of a run: (when it goes on, the reasons of each of its attempts by their number, what it waits for).
PENDING: dict[str, tuple[float, list[list[tuple[str, Reason]]], WaitsFor]] = {
    "lacking": (ENDED + DELAYS[0], [[("failed", LACKING)]], WaitsFor.CAPACITY),
    "crashed": (ENDED + DELAYS[1], [[("failed", LACKING)], [("failed", CRASHED)]], WaitsFor.BACKOFF),
    "node": (ENDED + DELAYS[0], [[("terminated", SERVER), ("failed", CRASHED)]], WaitsFor.BACKOFF),
    "woken": (ENDED + 3.125, [[("failed", LACKING)]], WaitsFor.CAPACITY),
    "nightly": (SCHEDULE, [], WaitsFor.SCHEDULE),
    "done": (SCHEDULE, [[("done", Reason.DONE_BY_RUNNER)]], WaitsFor.SCHEDULE),
    "again": (SCHEDULE, [[("failed", LACKING)]], WaitsFor.SCHEDULE),
}


def fill(connection: Connection, vault: Vault) -> None:
    """The rows of a store at revision 0001, as that version wrote them."""
    old = MetaData()
    old.reflect(connection)

    def add(table: str, **values: Any) -> None:
        connection.execute(insert(old.tables[table]).values(**values))

    def seal(column: str, value: str) -> str:
        return vault.seal(value, column)

    configuration = seal("fleets.configuration", '{"name": "train"}')
    add("fleets", **FLEET, state="active", created_at=1.0, place="", configuration=configuration)
    for name, (next_at, tried, _) in PENDING.items():
        asked = seal("runs.configuration", f'{{"type": "task", "name": "{name}"}}')
        add(
            "runs", id=name, project="main", name=name, type="task", request_key=name, user="ada", state="pending",
            desired="running", reason="", message="it failed; trying again", configuration=asked, code=[], context={},
            fleet_id="f", submitted_at=1.0, next_at=next_at,
        )  # fmt: skip
        for num, jobs in enumerate(tried):
            for job, (state, reason) in enumerate(jobs):
                add(
                    "attempts", id=f"{name}{num}{job}", run_id=name, job_id=f"{name}-0-{job}", replica=0, job=job, num=num,
                    state=state, reason=reason, message="it failed", log_offset=0, submitted_at=1.0, finished_at=ENDED,
                )  # fmt: skip
    add(
        "instances", id="i", identity="dj-1", project="main", fleet_id="f", backend="digitalocean", region="ams3",
        instance_type="s-1", price=0.25, offer={"a": 1}, data=seal("instances.data", '{"verdict": "offer"}'), guard={"b": 2},
        state="idle", message="", created_at=9.5,
    )  # fmt: skip
    add("rented", instance_id="i", **RENTED, vendor=seal("rented.vendor", '{"id": 7}'), seen=SEEN)
    add("attached", **ATTACHED)
    add("accounts", **ACCOUNT)
    add("strays", **STRAY)
    for kind, action in (("thing", "stray"), ("instance", "swept")):
        add(
            "events", at=1.0, actor="engine", project="main", kind=kind, resource_id="77", run_id="", name="dj-9", action=action,
            message="",
        )  # fmt: skip
    add("sealed_values", name=sealed.CHECK, value=seal("sealed_values.value", f'"{sealed.CHECK}"'))


@pytest.fixture
def older(where: Path | Secret, vault: Vault) -> Path | Secret:
    """A store at revision 0001 with something in every table that has other names by now."""
    vault.load(create=True)
    engine = engine_for(where)
    config = Config()
    config.set_main_option("script_location", str(migrate.FOLDER))
    with engine.connect() as connection, connection.begin():
        if isinstance(where, Secret):
            # Databases of tests begin with the tables of today.
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        fill(connection, vault)
    engine.dispose()
    return where


def _events(connection: Connection) -> list[tuple[str, str]]:
    return [(row.kind, row.action) for row in connection.execute(select(events).order_by(events.c.seq)).all()]


async def test_every_value_arrives_under_its_new_name(older: Path | Secret, vault: Vault) -> None:
    def only(table: Any) -> Any:
        return lambda connection: dict(connection.execute(select(table)).mappings().one())

    database = Database(older, vault)
    await database.open()
    try:
        assert await database.read(migrate.current) == migrate.HEAD
        found = await database.read(only(cloud_table))
        assert found == {
            "instance_id": "i", "account": "a1b2", "create_sent_at": 11.5, "rented_at": 12.5, "observed_at": 13.5,
            "absent_since": 14.5, "ending_at": 15.5, "delete_accepted_at": 16.5, "idle_at": 17.5, "vendor": {"id": 7},
            "observed": {
                "status": "stopped", "raw_status": "off", "address": "192.0.2.7", "internal_address": "", "user": "root",
                "port": 22,
            },
        }  # fmt: skip
        assert await database.read(only(cloud_resources)) == {
            "account": "a1b2", "kind": "disk", "identity": "dj-1-disk", "backend": "digitalocean", "project": "main",
            "instance_id": "i", "resource_id": "vol-9", "ours": 1, "data": {"size": 5}, "created_at": 10.5,
        }  # fmt: skip
        assert await database.read(only(accounts)) == {
            "account_id": "a1b2", "backend": "digitalocean", "project": "main", "first_used_at": 1.5, "swept_at": 2.5,
            "claimed_until": 3.5, "problem": "no entry",
        }  # fmt: skip
        assert await database.read(only(orphans)) == {
            "account": "a1b2", "kind": "instance", "resource_id": "77", "identity": "dj-9", "verdict": "unknown",
            "raw_status": "active", "region": "ams3", "price": 0.5, "first_seen_at": 4.5, "seen_at": 5.5,
            "delete_accepted_at": 6.5,
        }  # fmt: skip
        assert await database.read(_events) == [("cloud_resource", "orphan"), ("instance", "swept")]
        instance = await database.read(only(instances))
        assert (instance["data"], instance["offer"], instance["guard"]) == ({"verdict": "offer"}, {"a": 1}, {"b": 2})
        assert (await database.read(only(fleets)))["configuration"] == {"name": "train"}
        rent = await database.read(cloud_instances.load, "i")
        assert (rent.cloud.observed.status, rent.cloud.vendor) == ("stopped", {"id": 7})
        assert [row.resource_id for row in rent.resources] == ["vol-9"]
    finally:
        await database.close()


async def test_what_a_pending_run_waits_for_is_told_by_its_attempts_and_its_time(older: Path | Secret, vault: Vault) -> None:
    def waiting(connection: Connection) -> dict[str, tuple[float, dict[str, Any], str]]:
        rows = connection.execute(select(runs.c.name, runs.c.next_at, runs.c.configuration, runs.c.waits_for)).all()
        return {row.name: (row.next_at, row.configuration, row.waits_for) for row in rows}

    database = Database(older, vault)
    await database.open()
    try:
        assert await database.read(waiting) == {
            name: (next_at, {"type": "task", "name": name}, waits_for) for name, (next_at, _, waits_for) in PENDING.items()
        }
    finally:
        await database.close()


async def test_an_end_is_final_in_a_store_that_was_migrated(older: Path | Secret, vault: Vault) -> None:
    def change(state: str) -> Any:
        return lambda connection: connection.execute(text("UPDATE runs SET state = :state WHERE id = 'done'"), {"state": state})

    database = Database(older, vault)
    await database.open()
    try:
        await database.write(change("done"))
        with pytest.raises(IntegrityError):
            await database.write(change("pending"))
    finally:
        await database.close()
