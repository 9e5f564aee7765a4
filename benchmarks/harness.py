"""What the benchmarks share: a state folder of their own, figures with goals, and the machine they were taken on."""

from __future__ import annotations

import contextlib
import http.client
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.lab_server import listening_port

TOKEN = "bench-token"


@dataclass(frozen=True)
class Figure:
    """One measured number. ``goal`` with ``at_least`` False is a ceiling."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def ok(self) -> bool:
        if self.goal is None:
            return True
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def __str__(self) -> str:
        goal = "" if self.goal is None else f"{'≥' if self.at_least else '≤'} {self.goal:g} {self.unit}"
        verdict = "" if self.goal is None else ("ok" if self.ok else "MISSED")
        return f"{self.name:<52} {self.value:>10.3f} {self.unit:<7} {goal:<16} {verdict:<7} {self.note}"


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def machine() -> str:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{os.cpu_count()} cores, {cpu}, Python {platform.python_version()}, load {os.getloadavg()[0]:.2f}"


SLOW_READER = """
import dstack_jupyter.engine.reconcilers.attempt as attempts
attempts.REST = 0.5
from dstack_jupyter.engine.__main__ import main
main()
"""


@dataclass(frozen=True)
class Server:
    """A Jupyter server that hosts the engine."""

    port: int
    pid: int

    def status(self) -> float:
        """Seconds that ``GET /api/status`` takes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        began = time.perf_counter()
        connection.request("GET", "/api/status", headers={"Authorization": f"token {TOKEN}"})
        answer = connection.getresponse()
        answer.read()
        taken = time.perf_counter() - began
        connection.close()
        if answer.status != 200:
            raise SystemExit(f"/api/status: {answer.status}")
        return taken


@contextlib.contextmanager
def jupyter_server(*, extension: bool = True) -> Iterator[Server]:
    """A real Jupyter server with a fresh state folder that hosts the engine; the folder is in DSTACK_JUPYTER_HOME meanwhile.

    Without the ``extension``: what a Jupyter server is without us.
    """
    with tempfile.TemporaryDirectory(prefix="dj-bench-") as folder:
        home = Path(folder)
        os.environ["DSTACK_JUPYTER_HOME"] = str(home / "state")
        env = {**os.environ, "HOME": folder, "JUPYTER_RUNTIME_DIR": f"{home}/runtime", "JUPYTER_CONFIG_DIR": f"{home}/config"}
        command = [sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", "--port=0", "--ip=127.0.0.1"]
        command += [f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={home}"]
        if not extension:
            command.append("--ServerApp.jpserver_extensions={'dstack_jupyter_server': False}")
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 60
            endpoint = home / "state" / "endpoint.json"
            while (port := listening_port(home / "runtime")) is None or (extension and not endpoint.exists()):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit("the Jupyter server did not start")
                time.sleep(0.02)
            yield Server(port, process.pid)
        finally:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def engine(*, slow_reader: bool = False) -> Iterator[Path]:
    """An engine process with a fresh state folder; the folder is in DSTACK_JUPYTER_HOME meanwhile.

    ``slow_reader`` plants a fault: after each piece of a log it rests half a second.
    """
    with tempfile.TemporaryDirectory(prefix="dj-bench-") as folder:
        home = Path(folder) / "state"
        os.environ["DSTACK_JUPYTER_HOME"] = str(home)
        code = ["-c", SLOW_READER] if slow_reader else ["-m", "dstack_jupyter.engine"]
        process = subprocess.Popen([sys.executable, *code], start_new_session=True)
        try:
            deadline = time.monotonic() + 20
            while not (home / "endpoint.json").exists():
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit("the engine did not start")
                time.sleep(0.02)
            yield home
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
