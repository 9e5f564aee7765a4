"""What rented machines are and cost, on both databases. Rows come from the store's own functions; only time is moved by hand."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection, event, update

from dstack_jupyter.backends.base import Instance
from dstack_jupyter.engine.names import new_id
from dstack_jupyter.engine.steps.attempt import End
from dstack_jupyter.engine.steps.costs import PATIENCE
from dstack_jupyter.engine.store import cloud_instances, costing, moves, runs
from dstack_jupyter.engine.store.columns import now
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.engine.store.schema import attempts as attempts_table
from dstack_jupyter.engine.store.schema import cloud_instances as rented_table
from dstack_jupyter.engine.store.schema import instances
from dstack_jupyter.models.instances import OFF, OFF_BILLED, Guard, InstanceView
from dstack_jupyter.models.offers import OfferView
from dstack_jupyter.models.runs import RunView
from dstack_jupyter.models.states import AttemptState, InstanceState, Reason
from tests.engine.test_store import ended, submission

HOUR = 3600.0
GUARD = Guard(kind="host", text="a timer", off_is_billed=True)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5Wf6c0zY4Yb1yY8z7m6Z9bZl1Q5q1Q2r3s4t5u6v7w"


class Renting:
    """A run of one job and the machines that are rented for it."""

    def __init__(self, database: Database, name: str = "train", **more: Any) -> None:
        self.database = database
        self.new = submission(name, **more)

    async def submit(self) -> Renting:
        await self.database.write(runs.submit, self.new)
        return self

    async def want(self, *, price: float | None = 2.0, region: str = "nyc2", guard: Guard = GUARD, backend: str = "sky") -> str:
        """The intent of a machine; returns its id."""
        instance_id = new_id()
        fleet, _, _, _ = await self.database.read(moves.load_fleet, self.new.fleet_id)
        offer = OfferView(
            backend=backend, region=region, instance_type="gpu-h100x8", cpus=8, memory_gb=64, disk_gb=100, price=price
        )

        def store(connection: Connection) -> None:
            moves.want_instance(
                connection,
                instance_id=instance_id,
                identity=f"dj-{instance_id}",
                attempt_id=self.new.attempt_ids[0],
                fleet=fleet,
                run_id=self.new.run_id,
                offer=offer,
                guard=guard,
                host=backend,
                gpus=[],
            )
            if backend != "local":
                cloud_instances.want(connection, instance_id)

        await self.database.write(store)
        return instance_id

    async def make(self, instance_id: str, *, status: Any = "running", hours: float = 1.0) -> None:
        """The vendor has had it for some hours."""
        told = Instance(f"dj-{instance_id}", {"id": 7}, status, raw_status=status, console="https://console.example/7")
        await self.database.write(cloud_instances.ask, instance_id, "account")
        await self.database.write(cloud_instances.saw, instance_id, told, KEY)
        await self.moved(instance_id, rented_at=now() - hours * HOUR)

    async def moved(self, instance_id: str, **values: Any) -> None:
        """Time passes."""
        await self.database.write(
            lambda c: c.execute(update(rented_table).where(rented_table.c.instance_id == instance_id).values(**values))
        )

    async def gone(self, instance_id: str, why: str = "") -> None:
        await self.database.write(cloud_instances.let_go, instance_id, why)
        await self.database.write(cloud_instances.gone, instance_id, why)

    async def view(self) -> RunView:
        one = await self.database.read(runs.view, self.new.run_id)
        many = await self.database.read(lambda c: runs.views(c, project="main"))
        listed = next(view for view in many if view.id == one.id)
        assert listed.model_copy(update={"cost": one.cost, "machines": one.machines}) == one  # however it was asked for
        return one

    async def machine(self, instance_id: str, *, all: bool = False) -> InstanceView:
        found = await self.database.read(lambda c: costing.machines(c, "main", all=all))
        return next(each for each in found if each.id == instance_id)


@pytest.fixture
async def renting(database: Database) -> Renting:
    return await Renting(database).submit()


async def test_a_machine_costs_from_the_moment_the_vendor_has_it_until_the_vendor_has_none(renting: Renting) -> None:
    wanted = await renting.want()
    view = await renting.machine(wanted)
    assert (view.state, view.price, view.cost, view.rented_at, view.billed) == (InstanceState.PENDING, 2.0, 0.0, None, False)
    await renting.make(wanted, hours=3)
    view = await renting.machine(wanted)
    assert view.billed
    assert view.cost == pytest.approx(6.0, abs=0.01)
    assert (view.user, view.runs, view.fleet, view.guard) == ("ada", ["train"], "train", GUARD)
    assert view.console == "https://console.example/7"
    await renting.gone(wanted, "its job has ended")
    assert await renting.database.read(lambda c: costing.machines(c, "main")) == []
    view = await renting.machine(wanted, all=True)
    assert not view.billed
    before = view.cost
    assert before == pytest.approx(6.0, abs=0.01)
    assert (await renting.machine(wanted, all=True)).cost == before  # it grows no more
    await renting.database.write(
        lambda c: c.execute(update(instances).where(instances.c.id == wanted).values(finished_at=now() - costing.RECENT - 1))
    )
    assert await renting.database.read(lambda c: costing.machines(c, "main", all=True)) == []


async def test_an_unknown_price_is_unknown_and_never_nothing(renting: Renting) -> None:
    wanted = await renting.want(price=None)
    assert (await renting.view()).cost == 0.0  # nothing was made yet
    await renting.make(wanted)
    assert (await renting.machine(wanted)).cost is None
    view = await renting.view()
    assert view.price is None
    assert view.cost is None


async def test_a_run_costs_what_all_its_tries_cost(renting: Renting) -> None:
    first = await renting.want()
    await renting.make(first, hours=0.5)
    await renting.gone(first, "it could not be used within 600 s")
    second = await renting.want(region="sfo3", price=4.0)
    await renting.make(second, hours=2)
    view = await renting.view()
    assert view.cost == pytest.approx(0.5 * 2 + 2 * 4, abs=0.01)
    assert view.price == 4.0
    assert [each.id for each in view.machines] == [second]
    assert view.guard == GUARD


async def test_what_a_waiting_run_has_tried_is_in_its_view_and_in_its_events(renting: Renting) -> None:
    first = await renting.want()
    assert (await renting.view()).message == "asking sky for gpu-h100x8 in nyc2"
    await renting.gone(first, "no capacity")
    view = await renting.view()
    assert view.tried == ["tried gpu-h100x8 in nyc2 (sky): no capacity"]
    assert view.message == "looking for a machine"
    await renting.want(region="sfo3")
    assert (await renting.view()).tried == view.tried
    end = End(AttemptState.FAILED, Reason.NO_CAPACITY, "none of the 2 offers …", None)
    await renting.database.write(moves.end_attempt, renting.new.attempt_ids[0], end)
    assert (await renting.view()).tried == view.tried  # the end says more, the tries stay


async def test_a_machine_that_was_not_needed_any_more_was_not_tried_in_vain(renting: Renting) -> None:
    wanted = await renting.want()
    await renting.database.write(moves.end_attempt, renting.new.attempt_ids[0], ended(AttemptState.TERMINATED))
    await renting.gone(wanted, "its job has ended")
    assert (await renting.view()).tried == []


async def test_a_machine_of_another_fleet_costs_a_run_the_time_that_its_job_had_it(renting: Renting, database: Database) -> None:
    machine = await renting.want()
    await renting.make(machine, hours=10)
    await database.write(cloud_instances.ready, machine, {})
    guest = await Renting(database, "guest").submit()
    await database.write(moves.book, guest.new.attempt_ids[0], machine)
    assert (await guest.view()).cost == 0.0
    await database.write(moves.move_attempt, guest.new.attempt_ids[0], AttemptState.RUNNING)
    await database.write(
        lambda c: c.execute(
            update(attempts_table).where(attempts_table.c.id == guest.new.attempt_ids[0]).values(started_at=now() - HOUR)
        )
    )
    view = await guest.view()
    assert view.cost == pytest.approx(2.0, abs=0.01)
    assert view.machines == []
    assert (await renting.view()).cost == pytest.approx(20.0, abs=0.01)


async def test_a_machine_that_does_not_end_is_stuck_after_ten_minutes(renting: Renting) -> None:
    wanted = await renting.want()
    await renting.make(wanted)
    await renting.database.write(cloud_instances.let_go, wanted, "its job has ended")
    assert (await renting.machine(wanted)).stuck == ""
    await renting.moved(wanted, ending_at=now() - PATIENCE - 5)
    view = await renting.machine(wanted)
    assert view.stuck == "does not end"
    assert view.stuck_since == view.ending_at
    assert view.billed
    assert [each.stuck for each in (await renting.view()).machines] == ["does not end"]


@pytest.mark.parametrize("billed", [True, False])
async def test_a_machine_that_is_off_says_whether_it_is_billed_still(renting: Renting, *, billed: bool) -> None:
    wanted = await renting.want(guard=Guard(kind="host", text="a timer", off_is_billed=billed))
    await renting.make(wanted, status="stopped")
    view = await renting.machine(wanted)
    assert view.stuck == (OFF_BILLED if billed else OFF)
    assert view.billed is billed
    assert view.stuck_since is not None
    await renting.database.write(cloud_instances.absent, wanted)
    assert (await renting.machine(wanted)).stuck == ""  # what it was told to be last counts no more


async def test_a_create_that_nobody_knows_the_outcome_of_is_shown(renting: Renting) -> None:
    wanted = await renting.want()
    await renting.database.write(cloud_instances.ask, wanted, "account")
    assert (await renting.machine(wanted)).stuck == ""
    await renting.moved(wanted, create_sent_at=now() - PATIENCE - 5)
    assert (await renting.machine(wanted)).stuck == "not known whether it was made"


async def test_projects_do_not_see_each_others_machines(renting: Renting, database: Database) -> None:
    other = await Renting(database, project="lab").submit()
    await other.want()
    mine = await renting.want()
    assert [each.id for each in await database.read(lambda c: costing.machines(c, "main"))] == [mine]
    assert len(await database.read(lambda c: costing.machines(c, ""))) == 2


async def statements(database: Database, call: Any) -> int:
    """How many statements a read takes."""

    def read(connection: Connection) -> int:
        seen: list[str] = []
        listener = lambda *args: seen.append(args[2])  # noqa: E731
        event.listen(connection, "before_cursor_execute", listener)
        call(connection)
        event.remove(connection, "before_cursor_execute", listener)
        return len(seen)

    return await database.read(read)


async def test_many_machines_take_no_more_statements_than_one(renting: Renting, database: Database) -> None:
    def asked(connection: Connection) -> None:
        costing.machines(connection, "main", all=True)

    async def counts() -> tuple[int, int]:
        return await statements(database, asked), await statements(database, lambda c: runs.views(c, project="main"))

    await renting.gone(await renting.want())
    before = await counts()
    for number in range(4):
        each = await Renting(database, f"more-{number}").submit()
        await each.gone(await each.want())
        await each.want()
    assert await counts() == before == (1, 3)


async def test_the_view_of_a_run_on_this_machine_takes_three_statements(renting: Renting, database: Database) -> None:
    machine = await renting.want(backend="local", price=0.0)
    await database.write(moves.move_instance, machine, InstanceState.IDLE)
    await database.write(moves.book, renting.new.attempt_ids[0], machine)
    assert await statements(database, lambda c: runs.view(c, renting.new.run_id)) == 3
    view = await renting.view()
    assert (view.price, view.cost, view.machines, view.tried) == (0.0, 0.0, [], [])
