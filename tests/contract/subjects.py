"""The places that the suite is asked of: where their runs go, what they cannot do by nature, how a machine of theirs dies."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dstack_jupyter import api
from dstack_jupyter.client import Client, Run
from dstack_jupyter.models import endpoint
from dstack_jupyter.models.home import Home
from tests.conftest import wait_until

SECONDS = 120.0
"""That a run may take from its apply to its end, a machine's first boot included; it takes far less where nothing else runs."""

PROCESSES_ONLY = "it runs processes only, and the run asks for a container"
EVERYTHING_THAT_RUNS = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"


def processes_here() -> str:
    """The command lines of everything that runs on this machine."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(each.read_text(errors="replace").replace("\0", " "))
    return "\n".join(found)


def mark() -> str:
    """An argument that nothing else on any machine has: the command of a job that holds it can be looked for."""
    return f"job-{secrets.token_hex(8)}"


class Engine:
    """The engine of a home in a process of its own, started as ``module``, for clients to find."""

    def __init__(self, home: Home, module: str) -> None:
        self._home, self._module = home, module
        self._process = start_engine(home, module)

    def dies(self, meanwhile: Callable[[], None]) -> None:
        """SIGKILL, and the next one begins where it was, once ``meanwhile`` has returned."""
        self._process.kill()
        self._process.wait(10)
        meanwhile()
        self._process = start_engine(self._home, self._module)

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(60)


@dataclass
class Subject:
    """A place with an engine in a process of its own; a test submits as a user does. ``lacks``: what the place cannot do by
    nature, and what the product says to who asks for it all the same."""

    kind: str
    client: Client
    folder: Path
    where: dict[str, Any]
    lacks: dict[str, str] = field(default_factory=dict)
    dies: Callable[[Run], None] = lambda run: None
    """Ends the machine of a run without asking anything on it."""
    engine_dies: Callable[[Callable[[], None]], None] = lambda meanwhile: None
    """Kills the engine, calls, and starts the next one."""
    processes: Callable[[], str] = processes_here
    """The command lines of everything that runs in this place, asked past the engine."""

    def apply(self, *commands: str, **more: Any) -> Run:
        configuration = {"type": "task", "commands": list(commands), **self.where, **more}
        if not commands:
            del configuration["commands"]
        return api.apply(yaml.safe_dump(configuration), base=self.folder)

    def ended(self, run: Run) -> Run:
        return run.wait(SECONDS)

    def says(self, run: Run, text: bytes) -> None:
        """Wait until the log of a run that goes on holds a text."""

        def there() -> bool:
            if text in run.raw():
                return True
            assert not run.refresh().ended, f"{run.view.message}: {run.raw()!r}"
            return False

        wait_until(there, SECONDS, f"{text!r} of {run.name}")

    def leaves_nothing(self, mark: str) -> None:
        """Wait until no process of a job is left; ``account_id`` is a word of its command."""
        wait_until(lambda: mark not in self.processes(), 10, f"the processes of {mark} to be gone")

    def refuses(self, what: str, *commands: str, **more: Any) -> bool:
        """Whether this is a place that lacks ``what``; then it was asked for, and refused in the product's own words."""
        if what not in self.lacks:
            return False
        run = self.ended(self.apply(*commands, **more))
        reasons = {attempt.reason for attempt in run.view.attempts}
        assert (run.state, reasons) == ("failed", {"failed_to_start_due_to_no_capacity"})
        assert self.lacks[what] in run.view.message
        return True


def start_engine(home: Home, module: str) -> subprocess.Popen[bytes]:
    """An engine of a module of the tests' own, for clients to find."""
    process = subprocess.Popen([sys.executable, "-m", module], start_new_session=True)

    def there() -> bool:
        found = endpoint.read(home)
        return found is not None and found.pid == process.pid

    wait_until(there, 60, f"the engine {module}")
    return process
