"""What all tests share: a state folder of their own, and no engine left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dstack_jupyter import client as client_module
from dstack_jupyter.backends import registry
from dstack_jupyter.engine.keys.vault import FileKeys, Vault
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.models import endpoint
from dstack_jupyter.models.home import ENV_HOME, Home, write_private
from dstack_jupyter.models.secret import Secret
from tests.clouds.real import real
from tests.postgres import Server, postgres
from tests.whole_run import (
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_makereport,
    pytest_runtest_protocol,
)

__all__ = [
    "postgres",
    "pytest_collection_modifyitems",
    "pytest_configure",
    "pytest_runtest_makereport",
    "pytest_runtest_protocol",
    "real",
]

STORES = ["sqlite", "postgresql"]


def wait_until(predicate: Callable[[], object], timeout: float = 20.0, what: str = "") -> None:
    """Wait for another process: looks again every 10 ms, fails after ``timeout``."""
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, f"waited {timeout} s for {what or predicate}"
        time.sleep(0.01)


def end_engine(home: Home) -> None:
    """End whatever engine process serves this home, and wait until it is gone."""
    found = endpoint.read(home)
    if found is None or found.pid == os.getpid():
        return
    os.kill(found.pid, signal.SIGTERM)
    wait_until(lambda: not alive(found.pid), what="the engine's end")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture(scope="session")
def nobodys_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def no_start_files(request: pytest.FixtureRequest, nobodys_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs must not have the start files of whoever runs the tests. (Tests on real machines keep their images at home.)"""
    if request.node.get_closest_marker("machines") is None:
        monkeypatch.setenv("HOME", str(nobodys_home))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """An empty user: HOME and state folder of the test's own. Its runs and its engine end with the test."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "jupyter"))
    monkeypatch.setenv("DSTACK_JUPYTER_IDLE_EXIT", "60")
    monkeypatch.delenv("DSTACK_JUPYTER_SERVER", raising=False)
    found = Home(tmp_path / "state")
    monkeypatch.setenv(ENV_HOME, str(found.root))
    yield found
    if endpoint.read(found) is not None:
        client = client_module.Client(found, start=False)
        for run in client.runs():
            run.stop(abort=True).wait(20)
    end_engine(found)
    client_module._clients.pop(found, None)


@pytest.fixture(params=STORES)
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | Secret]:
    """Where a store of the test's own is, on each of the two databases in turn; it is empty, and made by who opens it."""
    if request.param == "sqlite":
        yield tmp_path / "store.db"
        return
    server: Server = request.getfixturevalue("postgres")
    name = server.create()
    yield server.url(name)
    server.drop(name)


@contextmanager
def _backends_taken_back() -> Iterator[None]:
    before = set(registry.entries)
    yield
    for name in set(registry.entries) - before:
        registry.unregister(name)


@pytest.fixture(autouse=True)
def _backends_of_the_test_only() -> Iterator[None]:
    """A backend that a test registers is gone after it."""
    with _backends_taken_back():
        yield


@pytest.fixture(autouse=True, scope="module")
def _backends_of_the_module_only() -> Iterator[None]:
    """So is one of a fixture that a whole module shares: it is set up before the fixture above looks."""
    with _backends_taken_back():
        yield


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """The keys of the test's store, whichever database that is on."""
    return Vault(FileKeys.of(Home(tmp_path)))


@pytest.fixture
async def database(where: Path | Secret, vault: Vault) -> AsyncIterator[Database]:
    """An open store of the test's own, on each of the two databases in turn."""
    found = Database(where, vault)
    await found.open()
    yield found
    await found.close()


def home_at(root: Path, where: Path | Secret) -> Home:
    """A state folder whose store is ``where``; several may share a PostgreSQL database."""
    found = Home(root)
    if isinstance(where, Secret):
        write_private(found.create().database, where.reveal().encode())
    return found


@pytest.fixture
def state(tmp_path: Path, where: Path | Secret) -> Home:
    """A state folder of the test's own, on each of the two databases in turn. For tests that run an Engine themselves."""
    return home_at(tmp_path / "state", where)
