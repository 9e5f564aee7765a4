"""PostgreSQL goes away, comes back, turns read-only: said plainly, nothing lost, and everything goes on by itself.

A server of these tests' own, with durable settings: it is crashed in the middle of runs.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.engine.keys.vault import Vault
from dstack_jupyter.engine.names import new_id
from dstack_jupyter.engine.store import runs
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.engine.store.location import ENV_DATABASE, shared
from dstack_jupyter.models.errors import ConfigurationError, StoreUnavailable
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.secret import Secret
from dstack_jupyter.models.states import RunState
from tests.conftest import home_at
from tests.engine.test_engine import apply, finished, until
from tests.engine.test_store import submission
from tests.postgres import Server


@pytest.fixture(scope="module")
def own(postgres: Server) -> Iterator[Server]:
    """A second server; the first one tells whether there can be any."""
    server = Server("max_connections=50")
    server.start()
    yield server
    server.remove()


@pytest.fixture
async def engine(own: Server, tmp_path: Path) -> AsyncIterator[Engine]:
    found = Engine(home_at(tmp_path / "state", own.url(own.create("template1"))))
    await found.start()
    yield found
    await found.stop()


async def test_a_crash_of_the_server_in_the_middle_of_a_run_loses_nothing(engine: Engine, own: Server, tmp_path: Path) -> None:
    run = await apply(engine, f"echo one; until [ -e {tmp_path}/gate ]; do sleep 0.02; done; seq 5000")
    await until(engine, run.id, b"one\n")
    own.stop(signal.SIGQUIT)
    with pytest.raises(StoreUnavailable, match="does not answer") as caught:
        await apply(engine, "true")
    assert "goes on by itself" in caught.value.hint
    (tmp_path / "gate").touch()  # the job ends while nobody can write that down
    async with asyncio.timeout(20):
        while not engine._problems:
            await asyncio.sleep(0.01)
    own.start()
    view, log = await finished(engine, run.id)
    assert view.state is RunState.DONE
    assert log == b"one\n" + b"".join(b"%d\n" % number for number in range(1, 5001))
    assert (await finished(engine, (await apply(engine, "echo two")).id))[1] == b"two\n"
    # What was cut off with the server is told again: wakes of other engines arrive as before.
    async with asyncio.timeout(20):
        while not own.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = 'dstack_jupyter relay'"):
            await asyncio.sleep(0.01)


async def test_a_failover_to_a_read_only_server_is_waited_out(engine: Engine, own: Server) -> None:
    await finished(engine, (await apply(engine, "true")).id)
    own.execute("ALTER SYSTEM SET default_transaction_read_only = on")
    own.execute("SELECT pg_reload_conf()")
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    await apply(engine, "true")
                except StoreUnavailable as error:
                    assert "read-only" in error.message
                    break
    finally:
        own.execute("ALTER SYSTEM RESET default_transaction_read_only")
        own.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(20):
        while True:
            try:
                run = await apply(engine, "echo back")
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)
    assert (await finished(engine, run.id))[1] == b"back\n"


async def test_connections_that_died_while_they_rested_are_replaced_unseen(own: Server, vault: Vault) -> None:
    database = Database(own.url(own.create("template1")), vault)
    await database.open()
    await asyncio.sleep(2.1)  # what rests shorter is not asked whether it lives
    own.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'dstack_jupyter'")
    assert await database.write(runs.submit, submission())
    await database.close()


async def test_a_connection_that_is_lost_inside_a_savepoint_is_an_outage_like_any_other(own: Server, vault: Vault) -> None:
    database = Database(own.url(own.create("template1")), vault)
    await database.open()

    def lose(connection: Connection) -> None:
        with connection.begin_nested():
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(StoreUnavailable, match="terminating connection"):
        await database.write(lose)
    new = submission()
    view, is_new = await database.write(runs.submit, new)
    assert (view.id, is_new) == (new.run_id, True)
    await database.close()


async def test_transactions_that_lock_each_other_out_all_succeed(own: Server, vault: Vault) -> None:
    where = own.url(own.create("template1"))
    one, two = Database(where, vault), Database(where, vault)
    for each in (one, two):
        await each.open()
    new = [submission(new_id()) for _ in range(2)]
    for each in new:
        await one.write(runs.submit, each)
    both_have_one = threading.Barrier(2)
    calls: list[str] = []

    def stop_both(connection: Connection, name: str, order: list[str]) -> None:
        calls.append(name)
        runs.ask_to_end(connection, order[0], name, False)
        if calls.count(name) == 1:
            both_have_one.wait(20)  # each holds what the other wants next: the server ends one of them
        runs.ask_to_end(connection, order[1], name, False)

    ids = [each.run_id for each in new]
    await asyncio.gather(one.write(stop_both, "a", ids), two.write(stop_both, "b", ids[::-1]))
    assert len(calls) == 3
    wanted = await one.read(lambda c: c.execute(text("SELECT DISTINCT desired FROM runs")).scalars().all())
    assert wanted == ["stopped"]
    for each in (one, two):
        await each.close()


async def test_two_engines_that_meet_an_empty_database_make_its_tables_once(own: Server, vault: Vault) -> None:
    where = own.url(own.create("template1"))
    found = [Database(where, vault) for _ in range(4)]
    await asyncio.gather(*(each.open() for each in found))
    for each in found:
        assert await each.read(runs.count_unfinished) == 0
        await each.close()


class TestLocation:
    SECRET = "canary-7f3a-password"
    URL = f"postgresql://ada:{SECRET}@127.0.0.1:1/nothing"

    def test_without_a_setting_the_store_is_a_file_of_the_home(self, tmp_path: Path) -> None:
        assert shared(Home(tmp_path)) is None

    def test_a_variable_or_a_private_file_names_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = home_at(tmp_path / "state", Secret(self.URL))
        assert shared(home) == Secret(self.URL)
        monkeypatch.setenv(ENV_DATABASE, "postgresql://other/x")
        assert shared(home) == Secret("postgresql://other/x")

    def test_a_file_that_others_can_read_is_refused_with_the_remedy(self, tmp_path: Path) -> None:
        home = home_at(tmp_path / "state", Secret(self.URL))
        home.database.chmod(0o644)
        with pytest.raises(ConfigurationError) as caught:
            shared(home)
        assert "chmod 600" in caught.value.hint
        assert self.SECRET not in str(caught.value)

    @pytest.mark.parametrize("url", ["mysql://ada:{}@h/x", "{}", "postgresql://ada:{}@h:port/x"])
    async def test_what_is_no_url_is_refused_without_being_shown(
        self, url: str, tmp_path: Path, vault: Vault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(ENV_DATABASE, url.format(self.SECRET))
        with pytest.raises(ConfigurationError) as caught:
            where = shared(Home(tmp_path))
            assert where is not None
            database = Database(where, vault)
            try:
                await database.open()
            finally:
                await database.close()
        assert self.SECRET not in repr(caught.value) + str(caught.value) + str(caught.value.__cause__)

    async def test_a_server_that_is_not_there_is_said_without_the_password(self, vault: Vault) -> None:
        database = Database(Secret(self.URL), vault)
        with pytest.raises(StoreUnavailable, match="does not answer") as caught:
            await database.open()
        await database.close()
        assert self.SECRET not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r} {caught.value.__cause__}"
