"""What is sealed in the store: nothing of it shows without the key, nothing is lost with it, and a rotation may be cut off."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select, text

from dstack_jupyter.engine.keys.vault import DataKey, FileKeys, Vault
from dstack_jupyter.engine.names import new_id
from dstack_jupyter.engine.service import rotation
from dstack_jupyter.engine.store import moves, runs, sealed
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.engine.store.schema import SEALED_TABLES, sealed_values
from dstack_jupyter.engine.store.schema import runs as runs_table
from dstack_jupyter.models.errors import ConfigurationError
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.secret import Secret
from dstack_jupyter.models.states import AttemptState
from tests.engine.test_store import ended, submission

CANARY = "canary-sealed-77120"


class InMemory:
    """Keys that are nowhere."""

    place = "memory"

    def __init__(self) -> None:
        self.keys: list[DataKey] = []

    def load(self) -> list[DataKey]:
        return list(self.keys)

    def create(self, key: DataKey) -> None:
        self.keys = self.keys or [key]

    def replace(self, keys: list[DataKey]) -> None:
        self.keys = list(keys)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    found = Database(tmp_path / "store.db")
    await found.open()
    yield found
    await found.close()


@pytest.fixture
async def either(where: Path | Secret, vault: Vault) -> AsyncIterator[Database]:
    """On each of the two databases in turn."""
    found = Database(where, vault)
    await found.open()
    yield found
    await found.close()


def secret_run(number: int = 0, **more: Any) -> runs.Submission:
    configuration = {"type": "task", "commands": ["true"], "env": {"TOKEN": f"{CANARY}-env-{number}"}, **more}
    return submission(f"run-{number}", configuration=configuration, registry_password=f"{CANARY}-registry-{number}")


def on_disk(folder: Path) -> bytes:
    """Database, WAL and shared memory, byte for byte."""
    return b"".join(path.read_bytes() for path in folder.glob("store.db*"))


def read_runs(connection: Connection) -> list[tuple[Any, Any]]:
    query = select(runs_table.c.configuration, runs_table.c.registry_password).order_by(runs_table.c.name)
    return [(row.configuration, row.registry_password) for row in connection.execute(query)]


@settings(max_examples=50, deadline=None)
@given(st.text(), st.sampled_from(["a", "runs.configuration"]))
def test_any_text_comes_back(given: str, column: str) -> None:
    vault = Vault(InMemory())
    vault.load(create=True)
    assert vault.open(vault.seal(given, column), column) == given
    assert vault.seal(given, column) != vault.seal(given, column)


def test_a_changed_or_moved_value_does_not_open() -> None:
    vault = Vault(InMemory())
    vault.load(create=True)
    found = vault.seal("x", "runs.configuration")
    with pytest.raises(ConfigurationError, match="changed outside"):
        vault.open(found, "runs.registry_password")
    last = "B" if found[-5] == "A" else "A"
    with pytest.raises(ConfigurationError, match="changed outside"):
        vault.open(found[:-5] + last + found[-4:], "runs.configuration")
    with pytest.raises(ConfigurationError, match="not in memory"):
        vault.open(found.replace(vault.sealing, "00000000"), "runs.configuration")


async def test_a_copied_database_shows_nothing(database: Database, tmp_path: Path) -> None:
    await database.write(runs.submit, secret_run())
    assert CANARY.encode() not in on_disk(tmp_path)
    assert b"run-0" in on_disk(tmp_path)  # the search itself works
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tmp_path.glob("store.db*"):
        shutil.copy(path, copy)
    stolen = Database(copy / "store.db")
    with pytest.raises(ConfigurationError, match=r"is not in .*copy/keys/store\.json") as caught:
        await stolen.open()
    await stolen.close()
    assert "copy it from where the store was made" in caught.value.hint
    assert not (copy / "keys" / "store.json").exists()  # no second key beside values of the first


async def test_a_key_that_others_can_read_is_refused(database: Database, tmp_path: Path) -> None:
    await database.close()
    (tmp_path / "keys" / "store.json").chmod(0o644)
    again = Database(tmp_path / "store.db")
    with pytest.raises(ConfigurationError, match="others can read"):
        await again.open()
    await again.close()


async def test_a_damaged_key_file_is_kept_and_not_shown(database: Database, tmp_path: Path) -> None:
    await database.close()
    path = tmp_path / "keys" / "store.json"
    path.write_text(left := path.read_text()[:-40])
    again = Database(tmp_path / "store.db")
    with pytest.raises(ConfigurationError, match="does not hold keys") as caught:
        await again.open()
    await again.close()
    assert path.read_text() == left
    assert left[20:60] not in str(caught.value)


async def test_rotation_seals_everything_anew_and_forgets_the_old_key(tmp_path: Path) -> None:
    vault = Vault(FileKeys.of(Home(tmp_path)))
    database = Database(tmp_path / "store.db", vault)
    await database.open()
    for number in range(7):
        await database.write(runs.submit, secret_run(number))
    await database.write(sealed.keep, sealed_values, "seed", sealed.run_seed)
    before, old = await database.read(read_runs), vault.sealing
    found = await rotation.rotate(database, vault)
    assert found == {"key": vault.sealing, "forgotten": [old], "values": 7 * 2 + 2}
    assert await database.read(sealed.count_foreign, SEALED_TABLES, vault.sealing) == 0
    assert await database.read(sealed.count_foreign, SEALED_TABLES, old) == 7 * 2 + 2
    assert [key.id for key in Vault(FileKeys.of(Home(tmp_path))).load()] == [vault.sealing]
    await database.close()
    again = Database(tmp_path / "store.db")
    await again.open()
    assert await again.read(read_runs) == before
    await again.close()


CRASHING = """
import asyncio, os, sys
from pathlib import Path
from dstack_jupyter.engine.service import rotation
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.engine.keys.vault import FileKeys, Vault
from dstack_jupyter.models.home import Home

folder, point = Path(sys.argv[1]), int(sys.argv[2])
steps = 0

def crash(frame, event, argument):
    # Every call that rotation makes into the vault or the store is a point to die at.
    global steps
    if event == "call" and frame.f_code.co_name in ("replace", "reseal", "write_private", "end_rotation", "_answer"):
        steps += 1
        if steps == point:
            os._exit(9)

async def main():
    vault = Vault(FileKeys.of(Home(folder)))
    database = Database(folder / "store.db", vault)
    await database.open()
    rotation.AT_ONCE = 2
    import threading
    threading.setprofile_all_threads(crash) if hasattr(threading, "setprofile_all_threads") else threading.setprofile(crash)
    sys.setprofile(crash)
    await rotation.rotate(database, vault)
    sys.setprofile(None)
    await database.close()
    print(steps)

asyncio.run(main())
"""


async def test_a_rotation_that_is_cut_off_anywhere_loses_nothing_and_is_gone_on_with(database: Database, tmp_path: Path) -> None:
    for number in range(5):
        await database.write(runs.submit, secret_run(number))
    before = await database.read(read_runs)
    await database.close()
    died = 0
    for point in range(1, 40):
        folder = tmp_path / str(point)
        shutil.copytree(tmp_path, folder, ignore=lambda _, names: [name for name in names if name.isdigit()])
        code = subprocess.run([sys.executable, "-c", CRASHING, str(folder), str(point)], capture_output=True).returncode
        vault = Vault(FileKeys.of(Home(folder)))
        again = Database(folder / "store.db", vault)
        await again.open()
        assert await again.read(read_runs) == before, point
        interrupted = [key.id for key in vault.load()]
        found = await rotation.rotate(again, vault)
        assert code == 0 or len(interrupted) < 2 or found["key"] == interrupted[0]  # the new key of before, not a third
        assert await again.read(read_runs) == before, point
        assert len(vault.load()) == 1
        await again.close()
        if code == 0:
            break
        assert code == 9
        died += 1
    assert died >= 8, died


def passwords(connection: Connection) -> list[str | None]:
    return list(connection.execute(text("SELECT registry_password FROM runs ORDER BY name")).scalars())


@pytest.mark.parametrize(
    ("more", "kept"),
    [({}, False), ({"retry": True}, True), ({"schedule": {"cron": "0 8 * * *"}}, True)],
    ids=["plain", "retry", "schedule"],
)
async def test_a_registry_password_is_kept_as_long_as_a_job_can_need_it(
    either: Database, more: dict[str, Any], kept: bool
) -> None:
    new = secret_run(**more)
    await either.write(runs.submit, new)
    await either.write(moves.move_attempt, new.attempt_ids[0], AttemptState.PROVISIONING)
    await either.write(moves.move_attempt, new.attempt_ids[0], AttemptState.PULLING)
    assert await either.read(passwords) != [None]
    assert (await either.read(read_runs))[0][1] == f"{CANARY}-registry-0"
    await either.write(moves.move_attempt, new.attempt_ids[0], AttemptState.RUNNING)
    assert (await either.read(passwords) != [None]) is kept
    await either.write(runs.ask_to_end, new.run_id, "ada", False)
    await either.write(moves.end_attempt, new.attempt_ids[0], ended(AttemptState.TERMINATED))
    assert await either.read(passwords) == [None]


async def test_of_two_nodes_the_second_still_has_the_password(either: Database) -> None:
    new = secret_run(nodes=2)
    new.attempt_ids.append(new_id())
    await either.write(runs.submit, new)
    await either.write(moves.move_attempt, new.attempt_ids[0], AttemptState.PROVISIONING)
    await either.write(moves.move_attempt, new.attempt_ids[0], AttemptState.RUNNING)
    assert await either.read(passwords) != [None]
    await either.write(moves.move_attempt, new.attempt_ids[1], AttemptState.PROVISIONING)
    await either.write(moves.move_attempt, new.attempt_ids[1], AttemptState.RUNNING)
    assert await either.read(passwords) == [None]


@pytest.mark.parametrize("where", ["postgresql"], indirect=True)
async def test_engines_that_share_a_store_rotate_under_each_other(where: Path | Secret, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"  # one file for both, as a shared secret is mounted
    one, other = Vault(FileKeys(file)), Vault(FileKeys(file))
    first, second = Database(where, one), Database(where, other)
    await first.open()
    await second.open()
    await second.write(runs.submit, secret_run(1))
    old = one.sealing
    assert (await rotation.rotate(first, one))["forgotten"] == []
    await second.write(runs.submit, secret_run(2))  # still with the old key
    assert await first.read(sealed.count_foreign, SEALED_TABLES, one.sealing) == 2
    assert len(await first.read(read_runs)) == len(await second.read(read_runs)) == 2
    again = await rotation.rotate(first, one)
    assert again == {"key": one.sealing, "forgotten": [], "values": 2}  # goes on: there was something left
    newest = await rotation.rotate(first, one)
    assert old not in [key.id for key in one.load()]
    assert newest["values"] == 2 * 2 + 1
    assert len(await second.read(read_runs)) == 2  # it read the file again
    await first.close()
    await second.close()


async def test_an_engine_with_another_key_is_refused(either: Database, where: Path | Secret, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    stranger = Vault(FileKeys(path))
    stranger.load(create=True)
    again = Database(where, stranger)
    with pytest.raises(ConfigurationError, match=r"which is not in .*other\.json") as caught:
        await again.open()
    await again.close()
    assert "copy it from where the store was made" in caught.value.hint


def test_two_engines_that_begin_at_once_have_one_key(tmp_path: Path) -> None:
    for number in range(50):
        home = Home(tmp_path / str(number)).create()
        together = threading.Barrier(4)

        def begin(_: int, home: Home = home, together: threading.Barrier = together) -> str:
            vault = Vault(FileKeys.of(home))
            together.wait()
            vault.load(create=True)
            return vault.sealing

        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(begin, range(4)))) == 1
        found = home.keys / "store.json"
        assert found.stat().st_mode & 0o777 == 0o600
        assert os.listdir(found.parent) == ["store.json"]
