"""Journeys on real machines: an engine process that can be killed at a named moment, and checks of the state afterwards."""

from __future__ import annotations

import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dstack_jupyter.client import Client, Run
from dstack_jupyter.models import endpoint
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.runs import ApplyRequest, Context, RunView
from tests.clouds.fixtures import Site
from tests.conftest import wait_until

BOOT = 60.0
"""Seconds that a machine may take from its create to its job; it takes five where nothing else runs."""


class Hold:
    """Keeps one request of the engine waiting at the vendor: before it takes effect, or before its answer goes out."""

    def __init__(self, site: Site, method: str, path: str, *, answered: bool) -> None:
        self.reached = threading.Event()
        self._go = threading.Event()
        whole = site.face.handle

        def handle(told: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
            mine = told == method and url.startswith(path) and not self.reached.is_set()
            found = whole(told, url, headers, body) if answered or not mine else None
            if mine:
                self.reached.set()
                self._go.wait(60)
            return found if found is not None else whole(told, url, headers, body)

        site.face.handle = handle  # type: ignore[method-assign]

    def release(self) -> None:
        self._go.set()


@dataclass
class Journey:
    """A user's home, a vendor with real machines, and the engine between them. ``module`` is what the engine is started as."""

    home: Home
    site: Site
    module: str = "dstack_jupyter.engine"
    engine: subprocess.Popen[bytes] | None = None
    env: dict[str, str] = field(default_factory=dict)

    @property
    def client(self) -> Client:
        return Client(self.home, start=False)

    def start(self) -> None:
        """An engine of this home, as a server or a client would start it."""
        self.engine = subprocess.Popen(
            [sys.executable, "-m", self.module], env={**os.environ, **self.env}, start_new_session=True, cwd=os.getcwd()
        )
        pid = self.engine.pid

        def there() -> bool:
            found = endpoint.read(self.home)
            return found is not None and found.pid == pid

        wait_until(there, 60, "the engine")

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more."""
        assert self.engine is not None
        os.kill(self.engine.pid, signal.SIGKILL)
        self.engine.wait(10)
        self.engine = None

    def end(self) -> None:
        if self.engine is not None:
            self.engine.terminate()
            self.engine.wait(60)

    def apply(self, *commands: str, name: str = "journey", **more: Any) -> Run:
        configuration = {"type": "task", "name": name, "commands": list(commands), "backends": [self.site.name], **more}
        request = ApplyRequest(configuration=configuration, request_key=secrets.token_hex(8), context=Context(cwd="/"))
        return self.client.apply(request)

    def view(self, name: str = "journey") -> RunView:
        return self.client.run(name).view

    def ended(self, name: str = "journey", seconds: float = 120.0) -> RunView:
        wait_until(lambda: self.client.run(name).ended, seconds, f"the end of {name}: {self.rows()}")
        return self.view(name)

    def rows(self) -> list[tuple[str, str]]:
        """(state, message) of every instance in the store, read past the engine."""
        if not self.home.store.exists():
            return []
        with sqlite3.connect(f"file:{self.home.store}?mode=ro", uri=True, timeout=10) as store:
            return list(store.execute("SELECT state, message FROM instances ORDER BY created_at"))

    def seen(self, state: str = "", message: str = "") -> bool:
        return any(state in ("", found) and message in said for found, said in self.rows())

    def made(self) -> list[str]:
        """The names of all machines that the vendor ever made."""
        return [machine.name for machine in (*self.site.cloud.ended, *self.site.cloud.machines.values())]

    def left(self) -> list[Any]:
        return list(self.site.account.list_all(self.home.installation()))

    def nothing_left(self, *, machines: int = 1, heard: bool = True) -> None:
        """Every machine was made once and is gone; the shared key is all that stays.

        ``heard``: the engine heard the vendor accept its end. Else 'not found' is no word about a machine younger than ten
        minutes (R3), and it stands as being ended for so long.
        """
        wait_until(lambda: not self.left(), 60, "the machines to go")
        if heard:
            wait_until(lambda: all(state == "terminated" for state, _ in self.rows()), 60, "the store to hear of it")
        else:
            assert [state for state, _ in self.rows()] == ["terminating"]
        assert len(self.made()) == len(set(self.made())) == machines
        assert [resource.kind for resource in self.site.account.list_attached(self.home.installation())] == ["ssh-key"]


Moment = Callable[[Journey], Callable[[], None]]
"""Prepares a moment; what it returns waits until that has come. A ``Hold`` it made is released after the kill."""


def at_the_vendor(method: str, path: str, *, answered: bool) -> Moment:
    def prepare(journey: Journey) -> Callable[[], None]:
        hold = Hold(journey.site, method, path, answered=answered)

        def come() -> None:
            assert hold.reached.wait(BOOT), f"{method} {path} was never called: {journey.rows()}"
            journey.kill()
            hold.release()

        return come

    return prepare


def when(what: Callable[[Journey], object]) -> Moment:
    def prepare(journey: Journey) -> Callable[[], None]:
        def come() -> None:
            deadline = time.monotonic() + BOOT
            while not what(journey):
                assert time.monotonic() < deadline, f"it never came: {journey.rows()}"
                time.sleep(0.002)
            journey.kill()

        return come

    return prepare


def _log_has(text: bytes) -> Callable[[Journey], object]:
    return lambda journey: text in journey.client.run("journey").raw()


def _attempt(state: str) -> Callable[[Journey], object]:
    return lambda journey: any(each.state == state for each in journey.view().attempts)


UNHEARD = frozenset({"the delete is on its way", "the machine is deleted, and not answered"})
"""Moments after which no engine ever hears that the vendor accepted the end."""
MOMENTS: dict[str, Moment] = {
    "the intent is stored, nobody was asked": at_the_vendor("GET", "/v2/account/keys", answered=False),
    "the key is made, and not answered": at_the_vendor("POST", "/v2/account/keys", answered=True),
    "the create is on its way": at_the_vendor("POST", "/v2/droplets", answered=False),
    "the machine is made, and not answered": at_the_vendor("POST", "/v2/droplets", answered=True),
    "the machine is made": when(lambda journey: journey.seen("provisioning")),
    "its address is asked for": at_the_vendor("GET", "/v2/droplets/", answered=True),
    "the first log in is tried": when(lambda journey: journey.seen("provisioning", "first log in")),
    "its first boot goes on": when(lambda journey: journey.seen("provisioning", "first boot")),
    "the machine is ready": when(lambda journey: journey.seen("idle") or journey.seen("busy")),
    "the job is launched": when(_attempt("provisioning")),
    "the log is read": when(_log_has(b"two\n")),
    "the job has ended": when(lambda journey: journey.seen("terminating")),
    "the delete is on its way": at_the_vendor("DELETE", "/v2/droplets/", answered=False),
    "the machine is deleted, and not answered": at_the_vendor("DELETE", "/v2/droplets/", answered=True),
}
