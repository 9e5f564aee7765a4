"""Races for the machines of fleets, each decided by the store: two engines on one database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from dstack_jupyter.engine.keys.vault import Vault
from dstack_jupyter.engine.names import new_id
from dstack_jupyter.engine.reconcilers import intents
from dstack_jupyter.engine.steps.attempt import End
from dstack_jupyter.engine.store import cloud_fleets, hosts, moves, runs
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.engine.store.schema import bookings, cloud_instances, fleets, instances
from dstack_jupyter.models.errors import Conflict, NoCapacity
from dstack_jupyter.models.instances import Guard
from dstack_jupyter.models.offers import OfferView
from dstack_jupyter.models.secret import Secret
from dstack_jupyter.models.states import AttemptState, InstanceState, Reason
from tests.engine.test_store import submission

OFFER = OfferView(backend="sky", region="nyc2", instance_type="s", cpus=4, memory_gb=16, disk_gb=100, price=0.07143)
IDLE = OFFER.model_copy(update={"availability": "idle"})
GUARD = Guard(kind="engine", text="")


@pytest.fixture
async def other(where: Path | Secret, vault: Vault, database: Database) -> AsyncIterator[Database]:
    """A second engine's connection to the same store."""
    found = Database(where, vault)
    await found.open()
    yield found
    await found.close()


async def pool(database: Database, *, most: int | None = None, machines: int = 1) -> tuple[Any, list[str]]:
    """(a fleet, its idle machines)."""
    configuration = {"type": "fleet", "name": "pool", "nodes": {"min": 0, "max": most}}
    apply = partial(
        cloud_fleets.apply_fleet, fleet_id=new_id(), name="pool", project="main", user="ada", configuration=configuration
    )
    await database.write(apply)
    fleet = await database.read(hosts.find_fleet, "pool", "main")
    ids = []
    for _ in range(machines):
        ids.append(instance_id := new_id())
        assert await database.write(want(fleet, instance_id))

        def make(connection: Any, instance_id: str = instance_id) -> None:
            moves.move_instance(connection, instance_id, InstanceState.IDLE)

        await database.write(make)
    return fleet, ids


def want(fleet: Any, instance_id: str, attempt_id: str | None = None) -> Any:
    return partial(
        cloud_fleets.want,
        fleet=fleet,
        instance_id=instance_id,
        identity=f"dj-{instance_id}",
        offer=OFFER,
        guard=GUARD,
        data={},
        attempt_id=attempt_id,
    )


async def submitted(database: Database, name: str) -> tuple[Any, list[str]]:
    configuration = {"type": "task", "name": name, "commands": ["x"]}
    new = submission(name, configuration=configuration)
    await database.write(runs.submit, new)
    _, run, _, _ = await database.read(moves.load_fleet, new.fleet_id)
    return run, new.attempt_ids


async def one(database: Database, table: Any, **values: Any) -> Any:
    query = select(table).where(*(table.c[name] == value for name, value in values.items()))
    return await database.read(lambda connection: connection.execute(query).one())


async def book(database: Database, run: Any, attempts: list[str]) -> bool:
    made = await database.read(lambda connection: connection.execute(select(instances.c.id)).scalars().all())
    offers = [IDLE.model_copy(update={"origin": "fleet", "instance_id": each}) for each in made]
    try:
        await database.write(intents.book, run, attempts, offers)
    except NoCapacity:
        return False
    return True


async def test_two_runs_never_get_one_machine(database: Database, other: Database) -> None:
    """F18 dstack#3683."""
    _, (machine,) = await pool(database)
    first, second = await submitted(database, "first"), await submitted(database, "second")
    assert sorted(await asyncio.gather(book(database, *first), book(other, *second))) == [False, True]
    row = await one(database, instances, id=machine)
    assert row.state == InstanceState.BUSY
    assert (await one(database, bookings, instance_id=machine)).attempt_id in (*first[1], *second[1])


async def test_the_end_of_a_job_makes_its_machine_idle_from_then_on(database: Database) -> None:
    _, (machine,) = await pool(database)
    run, attempts = await submitted(database, "first")
    assert await book(database, run, attempts)
    assert not await database.write(cloud_fleets.let_go_free, machine, "it had no job")
    await database.write(moves.end_attempt, attempts[0], End(AttemptState.DONE, Reason.DONE_BY_RUNNER))
    assert (await one(database, instances, id=machine)).state == InstanceState.IDLE
    assert (await one(database, cloud_instances, instance_id=machine)).idle_at is not None
    assert await book(database, *await submitted(database, "second"))


async def test_a_machine_that_a_run_took_meanwhile_is_not_let_go(database: Database, other: Database) -> None:
    """F39 dstack#890."""
    _, (machine,) = await pool(database)
    run, attempts = await submitted(database, "first")
    booked, gone = await asyncio.gather(
        book(database, run, attempts), other.write(cloud_fleets.let_go_free, machine, "it had no job")
    )
    assert booked is not gone
    expected = InstanceState.BUSY if booked else InstanceState.TERMINATING
    assert (await one(database, instances, id=machine)).state == expected


async def test_a_machine_that_is_made_for_a_run_is_not_let_go_by_its_fleet(database: Database) -> None:
    fleet, _ = await pool(database, machines=0)
    _, attempts = await submitted(database, "first")
    machine = new_id()
    assert await database.write(want(fleet, machine, attempts[0]))
    assert not await database.write(cloud_fleets.let_go_free, machine, "no")
    await database.write(cloud_fleets.keep, machine, attempts[0])
    assert await database.write(cloud_fleets.let_go_free, machine, "no")


async def test_a_fleet_never_grows_beyond_its_most(database: Database, other: Database) -> None:
    fleet, _ = await pool(database, most=2)
    grown = await asyncio.gather(database.write(want(fleet, new_id())), other.write(want(fleet, new_id())))
    assert sorted(grown) == [False, True]


async def test_what_is_ending_leaves_its_place_to_the_next(database: Database) -> None:
    fleet, (machine,) = await pool(database, most=1)
    assert not await database.write(want(fleet, new_id()))
    await database.write(cloud_fleets.let_go_free, machine, "x")
    assert await database.write(want(fleet, new_id()))


async def test_a_fleet_with_a_job_cannot_be_deleted(database: Database) -> None:
    fleet, _ = await pool(database)
    assert await book(database, *await submitted(database, "first"))
    with pytest.raises(Conflict, match="runs first"):
        await database.write(cloud_fleets.delete_fleet, fleet, "ada")


async def test_nothing_is_booked_or_made_in_a_fleet_that_is_to_go(database: Database) -> None:
    """F25 dstack#3449."""
    fleet, _ = await pool(database)
    await database.write(cloud_fleets.delete_fleet, fleet, "ada")
    assert not await book(database, *await submitted(database, "first"))
    assert not await database.write(want(fleet, new_id()))


async def test_a_run_that_names_other_fleets_gets_none(database: Database) -> None:
    await pool(database)
    new = submission("first", configuration={"type": "task", "name": "first", "commands": ["x"], "fleets": ["desk"]})
    await database.write(runs.submit, new)
    _, run, _, _ = await database.read(moves.load_fleet, new.fleet_id)
    assert not await book(database, run, new.attempt_ids)


async def test_a_change_that_holds_for_machines_is_refused_and_nodes_are_not(database: Database) -> None:
    fleet, _ = await pool(database)
    apply = partial(cloud_fleets.apply_fleet, fleet_id=new_id(), name="pool", project="main", user="ada")
    fleet_id, fresh = await database.write(partial(apply, configuration={**fleet.configuration, "nodes": {"min": 3, "max": 4}}))
    assert (fleet_id, fresh) == (fleet.id, False)
    with pytest.raises(Conflict, match="regions"):
        await database.write(partial(apply, configuration={**fleet.configuration, "regions": ["ams3"]}))


async def test_the_fleets_of_users_that_rent_are_work_and_ssh_fleets_are_not(database: Database) -> None:
    from dstack_jupyter.engine.store import work

    fleet, (machine,) = await pool(database)
    found = {(each.kind, each.id) for each in await database.read(work.unfinished)}
    assert found == {("fleet", fleet.id), ("instance", machine)}
    await database.write(lambda connection: connection.execute(update(fleets).values(kind="ssh")))
    assert {each.kind for each in await database.read(work.unfinished)} == {"instance"}
