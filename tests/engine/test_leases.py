"""One engine acts: leases, tokens and the fence that every write passes, on both databases; engines that share a PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, text, update

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.engine.keys.vault import ENV_KEY_FILE, Vault
from dstack_jupyter.engine.names import new_id
from dstack_jupyter.engine.runtime.leases import FleetLeases
from dstack_jupyter.engine.store import events, leases, runs
from dstack_jupyter.engine.store.columns import now
from dstack_jupyter.engine.store.database import BATCH, Database
from dstack_jupyter.engine.store.fence import STORE, Fence, acting, lost
from dstack_jupyter.engine.store.schema import attempts, conditions, engines
from dstack_jupyter.engine.store.schema import leases as table
from dstack_jupyter.engine.store.schema import runs as runs_table
from dstack_jupyter.models.engine import EventView
from dstack_jupyter.models.errors import LostLease
from dstack_jupyter.models.frames import LogFrame, RunFrame
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.secret import Secret
from dstack_jupyter.models.states import RunState
from tests.conftest import home_at
from tests.crash.story import Story, fleet
from tests.engine.test_engine import apply, finished, request, until
from tests.engine.test_store import submission
from tests.simulated.machines import SimulatedMachines
from tests.simulated.world import LoopTime, World

only_postgresql = pytest.mark.parametrize("where", ["postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def team_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that share a store have its keys in common."""
    monkeypatch.setenv(ENV_KEY_FILE, str(tmp_path / "team.json"))


@pytest.fixture
async def pair(tmp_path: Path, where: Path | Secret) -> AsyncIterator[tuple[Engine, Engine]]:
    """Two engines of two homes; with PostgreSQL they share the store."""
    found = Engine(home_at(tmp_path / "one", where)), Engine(home_at(tmp_path / "two", where))
    for engine in found:
        await engine.start()
    yield found
    for engine in found:
        for view in await engine.service.runs(project="main"):
            await engine.service.stop(view.id, project="main", abort=True, user="test")
            with contextlib.suppress(TimeoutError):
                await finished(engine, view.id)
    for engine in found:
        await engine.stop()


def run_out(connection: Connection) -> None:
    """All leases are as old as if their holders had been still for a quarter of a minute."""
    connection.execute(update(table).values(expires_at=table.c.expires_at - leases.TTL))


class TestFence:
    async def test_r7_what_was_taken_again_refuses_its_earlier_holder(self, database: Database) -> None:
        first = await database.write(leases.take_store, "a")
        second = await database.write(leases.take_store, "b")
        assert (first, second) == (Fence(STORE, "a", 1), Fence(STORE, "b", 2))
        new = submission()
        database.fence = first
        with pytest.raises(LostLease):
            await database.write(runs.submit, new)
        database.fence = second
        view, is_new = await database.write(runs.submit, new)
        assert (view.id, is_new) == (new.run_id, True)

    async def test_r7_the_name_of_an_owner_is_no_fence(self, database: Database) -> None:
        # The same engine may lose a lease and win it again: what it began in between is still refused.
        first = await database.write(leases.take_store, "a")
        await database.write(leases.take_store, "b")
        await database.write(leases.take_store, "a")
        database.fence = first
        with pytest.raises(LostLease):
            await database.write(runs.submit, submission())

    async def test_of_a_batch_only_the_fenced_off_are_refused(self, database: Database) -> None:
        held = await database.write(leases.take_store, "a")
        gone = Fence(STORE, "a", 0)

        async def write(proof: Fence | None) -> Any:
            acting.set(proof)
            return await database.write(runs.submit, submission(new_id()))

        proofs = [held, gone, None] * 5
        answers = await asyncio.gather(*(write(proof) for proof in proofs), return_exceptions=True)
        assert [isinstance(answer, LostLease) for answer in answers] == [proof is gone for proof in proofs]
        assert await database.read(runs.count_unfinished) == 10

    @pytest.mark.parametrize("count", [1, 2, 3, 5, BATCH])
    async def test_each_of_many_leases_is_proven(self, database: Database, count: int) -> None:
        held = [Fence(new_id(), "a", 1) for _ in range(count - 1)]
        gone = Fence(new_id(), "a", 1)
        for each in held:
            await database.write(leases.born, each.resource, each.owner)
        assert await database.write(lost, {*held, gone}) == {gone}

    @only_postgresql
    async def test_a_lease_that_ran_out_by_the_database_s_time_refuses(self, database: Database) -> None:
        new = submission(owner="a-1")
        await database.write(runs.submit, new)
        acting.set(Fence(new.fleet_id, "a-1", 1))
        assert await database.write(runs.ask_to_end, new.run_id, "x", False)
        acting.set(None)
        await database.write(run_out)
        acting.set(Fence(new.fleet_id, "a-1", 1))
        with pytest.raises(LostLease):
            await database.write(runs.ask_to_end, new.run_id, "x", True)

    @only_postgresql
    async def test_nobody_takes_what_is_in_the_middle_of_a_fenced_write(
        self, database: Database, where: Secret, vault: Vault
    ) -> None:
        new = submission(owner="a-1")
        await database.write(runs.submit, new)
        await database.write(lambda c: c.execute(update(table).values(expires_at=now() + 1)))
        inside, done = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def slow(connection: Connection) -> None:
            loop.call_soon_threadsafe(inside.set)
            done.wait(20)

        acting.set(Fence(new.fleet_id, "a-1", 1))
        writing = asyncio.create_task(database.write(slow))
        acting.set(None)
        await inside.wait()
        other = Database(where, vault)
        await other.open()
        # Its time is over, and still nobody gets between its first statement and its commit.
        assert await other.write(lambda c: c.execute(text("SELECT pg_sleep(1.1)")).all() and leases.take(c, "b-1", "")) == []
        done.set()
        await writing
        assert await other.write(leases.take, "b-1", "") == [Fence(new.fleet_id, "b-1", 2)]
        await other.close()


@only_postgresql
class TestLeases:
    async def test_what_runs_out_is_taken_once_and_its_token_rises(self, database: Database) -> None:
        new = [submission(new_id(), owner="a-1") for _ in range(20)]
        for each in new:
            await database.write(runs.submit, each)
        assert await database.write(leases.take, "b-1", "") == []
        await database.write(run_out)
        found = await asyncio.gather(*(database.write_aside(leases.take, f"{name}-1", "") for name in "bcde"))
        taken = [each.resource for one in found for each in one]
        assert sorted(taken) == sorted(each.fleet_id for each in new)
        assert {each.token for one in found for each in one} == {2}

    async def test_an_engine_takes_back_at_once_what_its_home_had_before(self, database: Database) -> None:
        new = submission(owner="a-1")
        await database.write(runs.submit, new)
        assert await database.write(partial(leases.take, earlier=True), "b-1", "") == []
        assert await database.write(partial(leases.take, earlier=True), "a-2", "") == [Fence(new.fleet_id, "a-2", 2)]
        # The earlier life may only have stood still. When it wakes it takes nothing back.
        assert await database.write(leases.take, "a-1", "") == []

    async def test_what_was_given_back_is_free_at_once(self, database: Database) -> None:
        new = submission(owner="a-1")
        await database.write(runs.submit, new)
        assert await database.write(leases.release, "a-1") == 1
        assert await database.write(leases.take, "b-1", "") == [Fence(new.fleet_id, "b-1", 2)]

    async def test_what_belongs_to_a_place_is_taken_there_only(self, database: Database) -> None:
        new = submission(owner="a-1")
        await database.write(runs.submit, new)
        place = "0123456789abcdef here"
        await database.write(lambda c: c.execute(text("UPDATE fleets SET place = :place"), {"place": place}))
        await database.write(run_out)
        assert await database.write(leases.take, "b-1", "fedcba9876543210 there") == []
        assert [found.run_id for found in await database.read(leases.absent, [new.run_id])] == [new.run_id]
        assert len(await database.write(leases.take, "c-1", "0123456789abcdef renamed")) == 1
        assert await database.read(leases.absent, [new.run_id]) == []

    async def test_a_fleet_that_ends_takes_its_lease_along(self, pair: tuple[Engine, Engine]) -> None:
        one, _ = pair
        run = await apply(one, "true")
        await finished(one, run.id)
        async with asyncio.timeout(10):
            while await one._database.read(lambda c: c.execute(select(func.count()).select_from(table)).scalar()):
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("where", ["sqlite"], indirect=True)  # with PostgreSQL: a run goes on where its lease goes
async def test_r7_an_engine_that_lost_the_store_changes_nothing_and_says_so(state: Home, tmp_path: Path) -> None:
    lost = asyncio.Event()
    first = Engine(state, lost.set)
    await first.start()
    run = await apply(first, f"echo up; until [ -e {tmp_path}/gate ]; do sleep 0.02; done; echo down")
    await until(first, run.id, b"up\n")
    second = Engine(state)
    await second.start()  # as a host does that found the first one standing still
    before = await second._database.read(_everything)
    (tmp_path / "gate").touch()
    # Both are woken by the job's last words. Only one of them stores them.
    async with asyncio.timeout(20):
        await lost.wait()
    view, log = await finished(second, run.id)
    assert (view.state, log) == (RunState.DONE, b"up\ndown\n")
    with pytest.raises(LostLease):
        await apply(first, "true")
    actions = [event.action for event in await second.service.events(project="main", run=run.id)]
    assert actions.count("done") == 1
    assert before[0] == 1
    assert (await second._database.read(_everything))[0] == 1
    await first.stop()
    await second.stop()


async def _first_condition(engine: Engine, run_id: str) -> str:
    """What the first condition says that a follower of the run is shown."""
    async for frame in engine.service.stream(run_id, project="main"):
        if isinstance(frame, RunFrame) and frame.run.conditions:
            return frame.run.conditions[0].message
    return ""


def _silent(connection: Connection, owner: str, seconds: float) -> None:
    connection.execute(update(engines).where(engines.c.owner == owner).values(at=now() - seconds))
    connection.execute(update(table).where(table.c.owner == owner).values(expires_at=now() + leases.TTL - seconds))


async def _leases_of(engine: Engine) -> dict[str, tuple[bool | None, str, str]]:
    """What doctor says of each engine of the store, by its life: (ok, message, hint)."""
    found = [each for each in await engine.service.doctor() if each["check"] == "lease" and " last word " in each["message"]]
    return {each["message"].partition("(")[2].partition(")")[0]: (each["ok"], each["message"], each["hint"]) for each in found}


def _everything(connection: Connection) -> tuple[int, int]:
    """(runs, attempts)"""
    return (
        connection.execute(select(func.count()).select_from(runs_table)).scalar_one(),
        connection.execute(select(func.count()).select_from(attempts)).scalar_one(),
    )


@only_postgresql
class TestSharing:
    async def test_a_stop_at_any_engine_reaches_the_one_that_acts(self, pair: tuple[Engine, Engine]) -> None:
        one, two = pair
        run = await apply(one, "echo up; sleep 300", stop_duration=1)
        await until(two, run.id, b"up\n")  # its log is followed at the other engine
        began = asyncio.get_running_loop().time()
        await two.service.stop(run.id, project="main", abort=True, user="ada")
        view, _ = await finished(two, run.id)
        assert view.state is RunState.TERMINATED
        assert asyncio.get_running_loop().time() - began < 10  # the guards alone would take 30 s

    async def test_a_log_is_followed_elsewhere_as_fast_as_here(self, pair: tuple[Engine, Engine], tmp_path: Path) -> None:
        one, two = pair
        run = await apply(one, f"for i in 1 2 3; do until [ -e {tmp_path}/$i ]; do sleep 0.01; done; echo $i; done")
        log, delays, loop = b"", [], asyncio.get_running_loop()
        touched = 0.0
        async with asyncio.timeout(20):
            async for frame in two.service.stream(run.id, project="main"):
                if isinstance(frame, LogFrame):
                    delays.append(loop.time() - touched)
                    log += b"x"
                view = await two.service.run(run.id, project="main")
                if view.state is RunState.RUNNING and len(log) < 3:
                    touched = loop.time()
                    (tmp_path / str(len(log) + 1)).touch()
        assert len(delays) == 3
        assert max(delays) < 5

    async def test_r7_a_run_goes_on_where_its_lease_goes(self, where: Secret, tmp_path: Path) -> None:
        # One home, two lives of its engine: the first stands still, the second takes what is of its place.
        home = home_at(tmp_path / "home", where)
        first = Engine(home)
        await first.start()
        run = await apply(first, f"echo up; until [ -e {tmp_path}/gate ]; do sleep 0.02; done; echo down")
        await until(first, run.id, b"up\n")
        second = Engine(home)
        await second.start()
        assert second.unfinished() == 1
        first._leases.look()
        async with asyncio.timeout(20):
            while first.unfinished():  # it finds out by itself and lets go
                await asyncio.sleep(0.01)
        assert second.unfinished() == 1
        (tmp_path / "gate").touch()
        view, log = await finished(second, run.id)
        assert (view.state, log) == (RunState.DONE, b"up\ndown\n")
        actions = [event.action for event in await second.service.events(project="main", run=run.id)]
        assert actions.count("done") == 1
        for engine in (first, second):
            await engine.stop()

    async def test_what_keeps_a_run_from_going_on_is_told_by_every_engine(self, where: Secret, tmp_path: Path) -> None:
        world = World(LoopTime())

        def engine(name: str) -> Engine:
            return Engine(home_at(tmp_path / name, where), machines=lambda *given: SimulatedMachines(world, given[3]))

        one, two = engine("one"), engine("two")
        await one.start()
        await fleet("desk", "h1")(one, Story(world))
        run = await apply(one, "echo up", "while :; do sleep 0.05; done", fleets=["desk"], backends=["ssh"])
        await until(one, run.id, b"up\n")
        await two.start()
        assert (await two.service.run(run.id, project="main")).conditions == []
        follower = asyncio.create_task(_first_condition(two, run.id))
        world.host("h1").reachable = False
        await two.service.stop(run.id, project="main", abort=True, user="ada")
        async with asyncio.timeout(20):
            assert "does not answer" in await follower  # without a question
        (here,), (there,) = [(await each.service.run(run.id, project="main")).conditions for each in (one, two)]
        assert (here.type, here.message) == (there.type, there.message) == ("unreachable", "h1 does not answer")
        (listed,) = await two.service.runs(project="main")
        assert listed.conditions == [there]

        await one.stop()
        async with asyncio.timeout(20):
            while not two.unfinished():
                await asyncio.sleep(0.02)
        (mine,) = (await two.service.run(run.id, project="main")).conditions
        assert mine.since == there.since  # who takes over knows since when
        world.host("h1").reachable = True
        view, _ = await finished(two, run.id)
        assert view.state is RunState.TERMINATED
        async with asyncio.timeout(20):
            while (await two.service.run(run.id, project="main")).conditions:
                await asyncio.sleep(0.02)
        assert await two._database.read(lambda connection: connection.execute(conditions.select()).all()) == []
        await two.stop()

    async def test_whose_ports_are_elsewhere_is_said_and_not_waited_for(self, pair: tuple[Engine, Engine]) -> None:
        one, two = pair
        run = await apply(one, "echo up; sleep 300", ports=["8765"])
        await until(two, run.id, b"up\n")
        async with asyncio.timeout(20):
            while (here := (await one.service.run(run.id, project="main")).attachment) is None:
                await asyncio.sleep(0.02)
        assert [each.port for each in here.forwards] == [8765]
        there = (await two.service.run(run.id, project="main")).attachment
        assert there is not None and there.forwards == []
        assert "attach from a notebook of the Jupyter server there" in there.notes[0]

    async def test_doctor_tells_of_every_engine_how_old_its_last_word_is(self, where: Secret, tmp_path: Path) -> None:
        one, two = Engine(home_at(tmp_path / "one", where)), Engine(home_at(tmp_path / "two", where))
        await one.start()
        await two.start()
        gate = tmp_path / "gate"
        run = await apply(one, f"echo up; until [ -e {gate} ]; do sleep 0.02; done")
        await until(two, run.id, b"up\n")
        found = await _leases_of(two)
        assert {owner: ok for owner, (ok, _, _) in found.items()} == {one._leases.owner: True, two._leases.owner: True}
        assert "acts for 1 fleets; its last word is" in found[one._leases.owner][1]
        assert "acts for 0 fleets" in found[two._leases.owner][1]

        # The first hangs for five minutes; then for a day, which is of interest while work waits for it.
        assert isinstance(one._leases, FleetLeases) and one._leases._beat is not None
        one._leases._beat.cancel()
        await asyncio.wait({one._leases._beat})
        for seconds, told in ((300.0, "5 min old"), (86400.0, "24 h old")):
            await two._database.write(_silent, one._leases.owner, seconds)
            third = Engine(home_at(tmp_path / "three", where))
            await third.start()
            ok, message, hint = (await _leases_of(two))[one._leases.owner]
            assert ok is False
            assert f"last word is {told}, and 1 of its leases have run out" in message
            assert "start its Jupyter server again" in hint and "jobs on `local` there wait for it" in hint
            await third.stop()
        one._leases._beat = asyncio.create_task(one._leases._beats())
        one._leases.look()
        async with asyncio.timeout(20):
            while not (await _leases_of(two))[one._leases.owner][0]:
                await asyncio.sleep(0.05)
        gate.touch()
        await finished(two, run.id)
        await one.stop()
        assert set(await _leases_of(two)) == {two._leases.owner}  # a clean end is no silence
        await two.stop()

    async def test_an_engine_that_was_killed_is_replaced_by_its_next_life_or_forgotten(self, database: Database) -> None:
        for owner in ("a-1", "b-1", "c-1"):
            await database.write(leases.begin, owner, f"{owner} host")
        await database.write(_silent, "b-1", leases.FORGET + 1)
        await database.write(_silent, "c-1", leases.FORGET - 60)
        await database.write(leases.begin, "a-2", "a host")
        assert {each.owner for each in await database.read(leases.heard)} == {"a-2", "c-1"}

    async def test_a_run_on_a_machine_whose_engine_is_away_says_so(self, where: Secret, tmp_path: Path) -> None:
        one, two = Engine(home_at(tmp_path / "one", where)), Engine(home_at(tmp_path / "two", where))
        await one.start()
        await two.start()
        run = await apply(one, f"until [ -e {tmp_path}/gate ]; do sleep 0.02; done; echo out")
        async with asyncio.timeout(20):
            while (await two.service.run(run.id, project="main")).state is not RunState.RUNNING:
                await asyncio.sleep(0.01)
        assert (await two.service.run(run.id, project="main")).conditions == []
        await one.stop()
        conditions = (await two.service.run(run.id, project="main")).conditions
        assert ["no engine runs there" in condition.message for condition in conditions] == [True]
        assert two.unfinished() == 0
        (tmp_path / "gate").touch()
        again = Engine(home_at(tmp_path / "one", where))
        await again.start()
        view, log = await finished(two, run.id)
        assert (view.state, log) == (RunState.DONE, b"out\n")
        await again.stop()
        await two.stop()

    async def test_r15_the_same_request_at_two_engines_is_one_run(self, pair: tuple[Engine, Engine]) -> None:
        wanted = request("sleep 60")
        views = await asyncio.gather(*(engine.service.apply(wanted, user="ada") for engine in pair * 4))
        assert len({view.id for view in views}) == 1
        assert len(await pair[0].service.runs(project="main", all=True)) == 1
        fleets = await pair[0]._database.read(lambda c: c.execute(text("SELECT count(*) FROM fleets")).scalar())
        assert fleets == 1

    async def test_code_that_one_engine_was_given_is_there_for_the_other(
        self, pair: tuple[Engine, Engine], tmp_path: Path
    ) -> None:
        one, two = pair
        data = bytes(range(256)) * 10000  # three rows
        sha256 = hashlib.sha256(data).hexdigest()
        assert not await two.service.has_code(sha256)
        upload = one.home.code / ".upload-x"
        upload.write_bytes(data)
        await one.service.store_code(sha256, upload)
        assert await two.service.has_code(sha256)
        await two._archives.fetch([sha256])
        assert two._archives.path(sha256).read_bytes() == data
        assert two._archives.path(sha256).stat().st_mode & 0o777 == 0o600

    async def test_keys_and_installation_are_common(self, pair: tuple[Engine, Engine]) -> None:
        one, two = pair
        assert one._machines._installation == two._machines._installation
        assert one._machines._keys.public == two._machines._keys.public
        assert one._machines._keys.of_run("r", "nodes").public == two._machines._keys.of_run("r", "nodes").public


async def test_events_are_seen_in_order_and_none_is_missed(where: Path | Secret, vault: Vault) -> None:
    # Writers that hold their transactions open for a while, and a follower by number that looks all the time.
    writers = [Database(where, vault) for _ in range(1 if isinstance(where, Path) else 4)]
    for each in writers:
        await each.open()
    count = 60

    def deed(connection: Connection, number: int) -> None:
        events.record(connection, actor="x", project="main", kind="run", resource_id="r", action=str(number))
        # At PostgreSQL, which is where the order could be lost; the wait is the fault.
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_sleep(:s)"), {"s": (number * 7 % 5) / 200})

    async def write(database: Database, base: int) -> None:
        for number in range(count):
            await database.write(deed, base * count + number)

    reader = Database(where, vault)
    await reader.open()
    seen: list[int] = []
    after = 0
    writing = asyncio.gather(*(write(each, base) for base, each in enumerate(writers)))
    finished_ = False
    while not finished_:
        finished_ = writing.done()
        for event in await reader.read(_after, after or -1):  # 0 would mean the newest
            assert event.seq > after
            after = event.seq
            seen.append(int(event.action))
    await writing
    assert sorted(seen) == list(range(count * len(writers)))
    for each in (*writers, reader):
        await each.close()


def _after(connection: Connection, number: int) -> list[EventView]:
    return events.read(connection, project="main", after=number, limit=500, run_id="")
