"""A PostgreSQL 15 server of the tests' own: a private cluster on a unix socket, one database a test, nothing left behind."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dstack_jupyter.engine.keys.vault import FileKeys, Vault
from dstack_jupyter.engine.names import new_id
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.secret import Secret

BINARIES = Path("/usr/lib/postgresql/15/bin")
EMPTY, READY = "template1", "dj_template"
# Nothing of it outlives the tests; what is tested for durability asks for it. Sixty engines at most have four connections each.
FAST = ("fsync=off", "full_page_writes=off", "max_connections=250", "shared_buffers=32MB", "autovacuum=off", "jit=off")


def available() -> bool:
    return (BINARIES / "initdb").exists()


class Server:
    """A cluster in a folder of its own. ``start`` and ``stop`` may be called again and again; ``remove`` ends it."""

    def __init__(self, *settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dj-pg-"))
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            # initdb refuses root.
            other = pwd.getpwnam("postgres" if _known("postgres") else "nobody")
            os.chown(self.folder, other.pw_uid, other.pw_gid)
            self._as = {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}
        self._settings = settings
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def _run(self, program: str, *args: str) -> None:
        command = [str(BINARIES / program), *args]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, **self._as)
        assert done.returncode == 0, f"{program}: {done.stderr or done.stdout}"

    def start(self) -> Server:
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={self.folder}"]
        for setting in self._settings:
            options += ["-c", setting]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [BINARIES / "postgres", "-D", str(self.data), *options], cwd=self.folder, stdout=log, stderr=log, **self._as
            )
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
        return self

    def _answers(self) -> bool:
        command = [BINARIES / "pg_isready", "-q", "-t", "5", "-h", str(self.folder), "-U", "postgres"]
        return subprocess.run(command).returncode == 0

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """End it at once but cleanly (SIGINT, its clients are cut off), or crash it (SIGQUIT)."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, name: str) -> Secret:
        return Secret(f"postgresql://postgres@/{name}?host={self.folder}")

    def execute(self, statement: str, name: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement outside a transaction, as an administrator."""
        import psycopg

        with psycopg.connect(self.url(name).reveal(), autocommit=True) as connection:
            found = connection.execute(statement)  # type: ignore[call-overload]
            return found.fetchall() if found.description else []

    def create(self, template: str = READY) -> str:
        """A database of its own; its name."""
        name = f"t{new_id()}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop(self, name: str) -> None:
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _known(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server for all tests of the session, with a template that has our tables."""
    if not available():
        assert not os.environ.get("CI"), "CI must have PostgreSQL 15: .ci/run installs it"
        pytest.skip("needs PostgreSQL 15 (Debian: apt-get install postgresql)")
    server = Server(*FAST)
    try:
        server.start()
        server.execute(f"CREATE DATABASE {READY}")
        with tempfile.TemporaryDirectory() as folder:
            database = Database(server.url(READY), Vault(FileKeys.of(Home(Path(folder)))))
            database._open()
            database._shut()
        # Each store has keys of its own: what this one was sealed with is no part of the template.
        server.execute("DELETE FROM sealed_values", READY)
        yield server
    finally:
        server.remove()
