"""The store's key in a keyring: asked for by name, never by itself, and never lost on the way there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends import fail, null
from keyring.errors import KeyringLocked

from dstack_jupyter.engine.keys.keyring import KEYRING, KeyringKeys, key_store
from dstack_jupyter.engine.keys.vault import ENV_KEY_FILE, FileKeys, Vault
from dstack_jupyter.engine.service import rotation
from dstack_jupyter.engine.store import runs, sealed
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.engine.store.schema import SEALED_TABLES
from dstack_jupyter.models.errors import ConfigurationError
from dstack_jupyter.models.home import Home
from tests.security.test_vault import read_runs, secret_run


class Kept(KeyringBackend):
    """A keyring in memory, with the interface that all of them have."""

    priority = 5  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringLocked("canary-locked")
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.locked:
            raise KeyringLocked("canary-locked")
        self.kept[service, username] = password


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setenv(ENV_KEY_FILE, KEYRING)
    before = keyring.get_keyring()
    found = Kept()
    keyring.set_keyring(found)
    yield found
    keyring.set_keyring(before)


async def opened(home: Home) -> Database:
    found = Database(home.store, Vault(key_store(home)))
    await found.open()
    return found


async def test_the_key_is_in_the_keyring_and_stays_there(backend: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    database = await opened(home)
    await database.write(runs.submit, secret_run())
    before = await database.read(read_runs)
    await database.close()
    assert not (home.keys / "store.json").exists()
    ((service, name),) = backend.kept
    assert (service, name) == ("dstack_jupyter", home.installation())
    secret = backend.kept[service, name]
    for path in home.root.rglob("*"):
        assert not path.is_file() or secret.encode() not in path.read_bytes()

    monkeypatch.delenv(ENV_KEY_FILE)  # who forgets the variable gets no second key
    vault = Vault(key_store(home))
    database = Database(home.store, vault)
    await database.open()
    assert await database.read(read_runs) == before
    old = vault.sealing
    assert (await rotation.rotate(database, vault))["forgotten"] == [old]
    assert await database.read(sealed.count_foreign, SEALED_TABLES, vault.sealing) == 0
    await database.close()
    database = await opened(home)
    assert await database.read(read_runs) == before
    await database.close()


async def test_a_key_that_was_in_the_file_moves(backend: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.delenv(ENV_KEY_FILE)
    database = await opened(home)
    await database.write(runs.submit, secret_run())
    before = await database.read(read_runs)
    await database.close()
    (key,) = FileKeys.of(home).load()
    assert backend.kept == {}

    monkeypatch.setenv(ENV_KEY_FILE, KEYRING)
    backend.locked = True
    with pytest.raises(ConfigurationError, match="does not answer") as told:
        await opened(home)
    assert "unlock it" in told.value.hint and "canary" not in str(told.value)
    assert FileKeys(home.keys / "store.json").load() == [key]  # nothing was moved, and none made
    backend.locked = False
    database = await opened(home)
    assert await database.read(read_runs) == before
    await database.close()
    assert not (home.keys / "store.json").exists()
    assert KeyringKeys(home).load() == [key]


@pytest.mark.parametrize("absent", [fail.Keyring(), null.Keyring()], ids=["none", "one that keeps nothing"])
async def test_where_there_is_no_keyring_no_store_is_made(backend: Kept, tmp_path: Path, absent: KeyringBackend) -> None:
    keyring.set_keyring(absent)
    home = Home(tmp_path / "home")
    with pytest.raises(ConfigurationError, match="there is no keyring here that keeps a secret") as told:
        await opened(home)
    assert f"leave {ENV_KEY_FILE} unset" in told.value.hint
    assert not (home.keys / "store.json").exists()


def test_without_being_asked_for_no_keyring_is_looked_at(backend: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV_KEY_FILE)
    assert isinstance(key_store(Home(tmp_path / "home")), FileKeys)
