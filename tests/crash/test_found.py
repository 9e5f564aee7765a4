"""What the walker and the model found in the engine, each as a test of its own that needs no luck."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dstack_jupyter.engine.names import new_id
from dstack_jupyter.engine.reconcilers import intents
from dstack_jupyter.engine.reconcilers.host import internal_ip
from dstack_jupyter.engine.store import hosts, moves, runs, work
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.engine.store.rows import InstanceData
from dstack_jupyter.engine.store.schema import attempts, bookings, instances
from dstack_jupyter.engine.store.schema import runs as runs_table
from dstack_jupyter.models.offers import OfferView
from dstack_jupyter.models.states import AttemptState, Reason, RunState
from tests.engine.test_store import submission as any_submission

OFFER = {
    "backend": "ssh",
    "region": "desk",
    "instance_type": "h1",
    "cpus": 8.0,
    "memory_gb": 32.0,
    "disk_gb": 100.0,
    "price": 0.0,
    "availability": "idle",
}


def submission(nodes: int = 1, **more: Any) -> runs.Submission:
    configuration = {"type": "task", "name": "train", "commands": ["x"], "fleets": ["desk"], "nodes": nodes, **more}
    return any_submission(attempt_ids=[new_id() for _ in range(nodes)], configuration=configuration)


async def one_host(database: Database) -> None:
    """A fleet with one host that can be used."""

    def make(connection: Any) -> None:
        host = hosts.NewHost(new_id(), f"dj-{new_id()}", "h1", {"address": {"hostname": "h1"}, "blocks": 1})
        hosts.apply_fleet(connection, fleet_id=new_id(), name="desk", project="main", user="ada", configuration={}, hosts=[host])
        hosts.note(connection, host.id, message="", offer=OFFER, data={})

    await database.write(make)


async def rows(database: Database, table: Any) -> list[Any]:
    return await database.read(lambda connection: connection.execute(table.select()).all())


async def offered(database: Database) -> OfferView:
    (host,) = await rows(database, instances)
    return OfferView(**OFFER, instance_id=host.id)


async def test_a_run_that_was_stopped_between_two_tries_is_work_for_the_next_engine(database: Database) -> None:
    new = submission(retry={"on_events": ["no-capacity"], "duration": "1h"})
    await database.write(runs.submit, new)
    await database.write(intents.without, new.attempt_ids, "nothing is free")
    (run,) = await rows(database, runs_table)
    assert run.state == RunState.PENDING
    await database.write(runs.ask_to_end, new.run_id, "ada", False)
    assert ("run", new.run_id) in {(each.kind, each.id) for each in await database.read(work.unfinished)}


async def test_nothing_is_booked_for_an_attempt_that_ended_meanwhile(database: Database) -> None:
    await one_host(database)
    new = submission()
    await database.write(runs.submit, new)
    _, run, _, _ = await database.read(moves.load_fleet, new.fleet_id)
    # The fleet reconciler has read the run; then it is stopped and its attempt ends.
    await database.write(runs.ask_to_end, new.run_id, "ada", False)
    await database.write(intents.book, run, new.attempt_ids, [await offered(database)])
    assert await rows(database, bookings) == []


async def test_who_waits_is_booked(database: Database) -> None:
    await one_host(database)
    new = submission()
    await database.write(runs.submit, new)
    _, run, _, _ = await database.read(moves.load_fleet, new.fleet_id)
    await database.write(intents.book, run, new.attempt_ids, [await offered(database)])
    assert [row.attempt_id for row in await rows(database, bookings)] == new.attempt_ids


async def test_nodes_that_find_no_hosts_end_all_at_once(database: Database) -> None:
    """One of them alone, after a crash between two transactions, found a host for itself."""
    new = submission(nodes=2)
    await database.write(runs.submit, new)
    await database.write(intents.without, new.attempt_ids, "2 free hosts are needed, 1 is free")
    found = await rows(database, attempts)
    assert {(row.state, row.reason) for row in found} == {(AttemptState.FAILED, Reason.NO_CAPACITY)}


def test_a_host_that_says_nonsense_of_its_addresses_can_be_used() -> None:
    row: Any = SimpleNamespace(data=InstanceData.of({"address": {"hostname": "h1"}}))
    hello: Any = SimpleNamespace(addresses=("wg0:", "10.0.0.9/24"))
    assert internal_ip(row, hello) == "10.0.0.9"
