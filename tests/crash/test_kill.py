"""SIGKILL of a real Jupyter server at random moments while runs go on, judged by what the jobs themselves wrote elsewhere.

Each job appends its token to a file that is nobody's of ours, and copies each line there before it prints it. ``DJ_KILLS`` says
how often (6 in ``make test``, 30 in ``make test-machines``, 200 in ``make soak``), ``DJ_SEED`` repeats the moments.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dstack_jupyter.models.errors import DstackJupyterError
from dstack_jupyter.models.home import ENV_HOME, Home
from dstack_jupyter.models.secret import Secret
from tests.conftest import home_at, wait_until
from tests.server.test_server import TOKEN, Server, start

ENDS = ("done", "failed", "terminated")
LINES = 30


@dataclass
class Told:
    """A run that somebody asked for. ``stopped``: a stop was answered, or its server died before it could answer."""

    name: str
    stopped: bool = False
    known: bool = False


@dataclass
class Crowd:
    """Users who submit and stop runs of one server, and try again where it died under them."""

    home: Home
    outside: Path
    dice: random.Random
    runs: list[Told] = field(default_factory=list)
    server: Server | None = None
    kills: int = 0

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Raises OSError where the server is gone, or not there yet."""
        assert self.server is not None
        try:
            return self.server.authorised(method, path, body)
        except (http.client.HTTPException, ValueError) as error:
            raise ConnectionError(str(error)) from error

    def insist(self, method: str, path: str, body: Any = None) -> Any:
        """Ask until the server, or its successor's engine, answers."""
        deadline = time.monotonic() + 90
        while True:
            try:
                status, found = self.ask(method, path, body)
                if status < 500:
                    return found
            except (OSError, DstackJupyterError):
                status = 0
            assert time.monotonic() < deadline, (method, path, status)
            time.sleep(0.05)

    def request(self, name: str) -> dict[str, Any]:
        copy = self.outside / f"{name}.copy"
        pause = random.Random(name).choice(["", "sleep 0.02; ", "sleep 0.05; "])
        commands = [
            f"echo {name} >> {self.outside}/ran",
            f'i=0; while [ $i -lt {LINES} ]; do echo "{name} line $i" >> {copy}; echo "{name} line $i"; {pause}i=$((i+1)); done',
        ]
        configuration = {"type": "task", "name": name, "shell": "sh", "commands": commands}
        return {"configuration": configuration, "request_key": name, "context": {"cwd": "/"}}

    def submit(self) -> None:
        """Ask once: the server may be killed before it answers."""
        told = Told(f"run-{len(self.runs)}")
        self.runs.append(told)
        self._try(told)

    def _try(self, told: Told) -> None:
        try:
            status, view = self.ask("POST", "/runs", self.request(told.name))
        except OSError:
            return
        assert status in (200, 201) or status >= 500, view  # no engine yet, or none any more
        told.known = status < 500

    def try_again(self) -> None:
        """What nobody answered is asked again with the same key: it is the same run, whether or not it was heard."""
        for told in self.runs:
            if not told.known:
                self.insist("POST", "/runs", self.request(told.name))
                told.known = True

    def stop_one(self) -> None:
        """Ask once: the server may be killed before it answers, and yet have stored the stop."""
        told = self.dice.choice(self.runs)
        try:
            status, _ = self.ask("POST", f"/runs/{told.name}/stop", {"abort": self.dice.random() < 0.5})
        except OSError:
            status = 200  # perhaps: a stop that nobody heard is a run that ends as it would
        told.stopped = told.stopped or status == 200

    def until_it_dies(self) -> None:
        """Work with the server until it is killed at some moment, and start the next one."""
        assert self.server is not None
        killer = threading.Timer(self.dice.random() * 1.5, self.server.process.kill)
        killer.start()
        for _ in range(5):
            if self.server.process.poll() is None:
                self.submit()
                if self.dice.random() < 0.3:
                    self.stop_one()
        killer.join()
        self.server.process.wait(30)
        self.kills += 1
        self.server = start(self.home)


@pytest.fixture
def crowd(tmp_path: Path, where: Path | Secret, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowd]:
    for name, value in (("HOME", tmp_path), ("JUPYTER_CONFIG_DIR", tmp_path / "jupyter"), (ENV_HOME, tmp_path / "state")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("DSTACK_JUPYTER_SERVER", raising=False)
    seed = int(os.environ.get("DJ_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    outside = tmp_path / "outside"
    outside.mkdir()
    found = Crowd(home_at(tmp_path / "state", where), outside, random.Random(seed))
    found.server = start(found.home)
    yield found
    found.server.stop()


def states(crowd: Crowd) -> dict[str, str]:
    return {view["name"]: view["state"] for view in crowd.insist("GET", "/runs?all=1")}


def check(crowd: Crowd) -> None:
    """Every run has ended; each body ran once; each log is what its job printed."""
    wait_until(lambda: all(state in ENDS for state in states(crowd).values()), 90, "all runs to end")
    found = states(crowd)
    assert set(found) == {told.name for told in crowd.runs}, "a run was lost, or one request made two"
    ran = Counter((crowd.outside / "ran").read_text().split())
    assert max(ran.values()) == 1, f"bodies that ran twice: {ran.most_common(3)}"
    for told in crowd.runs:
        copy = crowd.outside / f"{told.name}.copy"
        printed = copy.read_bytes() if copy.exists() else b""
        assert crowd.server is not None
        status, log = crowd.server.ask("GET", f"/runs/{told.name}/logs/raw", Authorization=f"token {TOKEN}")
        if found[told.name] == "terminated":
            assert told.stopped
            # It may have been killed between the copy and the print. Bash says of a command that a signal ended that it was.
            log = log.removesuffix(b"Terminated\n")
            assert status == 404 or printed.startswith(log), told
            assert len(printed.splitlines()) - len(log.splitlines()) <= 1 or status == 404
            continue
        assert found[told.name] == "done", (told, found[told.name])
        assert ran[told.name] == 1, told
        assert len(printed.splitlines()) == LINES
        assert hashlib.sha256(log).digest() == hashlib.sha256(printed).digest(), (
            f"{told.name}: {len(log)} of {len(printed)} bytes"
        )


def loop(crowd: Crowd, kills: int) -> None:
    while crowd.kills < kills:
        crowd.until_it_dies()
        crowd.try_again()
    check(crowd)


@pytest.mark.timeout(300)
def test_a_server_that_is_killed_again_and_again_loses_nothing(crowd: Crowd) -> None:
    loop(crowd, int(os.environ.get("DJ_KILLS", "6")))


@pytest.mark.machines
@pytest.mark.timeout(0)
def test_a_server_that_is_killed_often_loses_nothing(crowd: Crowd) -> None:
    loop(crowd, int(os.environ.get("DJ_KILLS", "30")))
