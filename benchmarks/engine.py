"""The engine on both databases: 1,000 no-op runs, recovery after kill -9 with 1,000 runs, and what it costs when idle.

``python -m benchmarks engine``. PostgreSQL 15 is a private cluster with durable settings (fsync on); the SSH host of the idle
figure needs root. CPU is that of the engine's process alone, read from /proc: neither jobs nor the database server's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dstack_jupyter.client import Client, Run
from dstack_jupyter.engine.keys.vault import ENV_KEY_FILE
from dstack_jupyter.engine.store.location import ENV_DATABASE
from dstack_jupyter.models import endpoint
from dstack_jupyter.models.fleets_view import FleetRequest
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.runs import ApplyRequest, Context
from tests.hosts.hosts import HostSet, missing_tools
from tests.postgres import Server as Postgres
from tests.postgres import available

from .harness import Figure, jupyter_server

RUNS = 1000
SUBMITTERS = 8
IDLE = 60.0
TICKS = os.sysconf("SC_CLK_TCK")
DSTACK = {"SQLite": (0.6, 1.2, 330, 440), "PostgreSQL": (0.95, 0.95, 330, 440)}
"""dstack 0.22.5 on 100 no-op runs, measured on a machine of two cores: runs/s from, to; CPU-ms a run from, to."""


class Process:
    """An engine process of a home; it can be killed and started again."""

    def __init__(self, home: Home, database: str) -> None:
        self.home = home
        self._env = {**os.environ, "DSTACK_JUPYTER_HOME": str(home.root), ENV_DATABASE: database}
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", "dstack_jupyter.engine"], env=self._env, start_new_session=True)
        deadline = time.monotonic() + 40
        while (found := endpoint.read(self.home)) is None or found.pid != self._process.pid:
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise SystemExit("the engine did not start")
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu(self) -> float:
        return cpu(self.pid)

    def end(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        self._process.wait(30)


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident(pid: int) -> float:
    """MB in memory."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


@contextlib.contextmanager
def engine(database: str) -> Iterator[tuple[Process, Client]]:
    with tempfile.TemporaryDirectory(prefix="dj-bench-") as folder:
        home = Home(Path(folder) / "state")
        process = Process(home, database)
        try:
            yield process, Client(home, start=False)
        finally:
            process.end(signal.SIGTERM)


@contextlib.contextmanager
def databases() -> Iterator[dict[str, str]]:
    """A URL for each database, '' for SQLite; each is fresh."""
    found = {"SQLite": ""}
    if not available():
        yield found
        return
    server = Postgres("jit=off")
    try:
        server.start()
        yield {**found, "PostgreSQL": server.url(server.create("template1")).reveal()}
    finally:
        server.remove()


def apply(client: Client, *commands: str) -> Run:
    configuration = {"type": "task", "commands": list(commands)}
    return client.apply(ApplyRequest(configuration=configuration, request_key=secrets.token_hex(8), context=Context(cwd="/")))


def all_ended(client: Client, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while client.info().unfinished_runs:
        if time.monotonic() > deadline:
            raise SystemExit(f"{client.info().unfinished_runs} runs have not ended")
        time.sleep(0.05)


def no_ops(name: str, database: str) -> list[Figure]:
    with engine(database) as (process, client):
        apply(client, "true").wait(30)
        before, began = process.cpu(), time.perf_counter()
        with ThreadPoolExecutor(SUBMITTERS) as pool:
            list(pool.map(lambda _: apply(client, "true"), range(RUNS)))
        all_ended(client, 300)
        seconds, used = time.perf_counter() - began, process.cpu() - before
        failed = sum(run.state != "done" for run in client.runs(all=True))
    low, high, least, most = DSTACK[name]
    rate, each = RUNS / seconds, used / RUNS * 1000
    return [
        Figure(
            f"{RUNS} no-op runs, {name}",
            rate,
            "runs/s",
            50,
            at_least=True,
            note=f"{failed} failed; dstack {low:g}–{high:g}: {rate / high:.0f} × as many",
        ),
        Figure(
            f"  CPU of the engine a run, {name}",
            each,
            "ms",
            20,
            note=f"dstack {least}–{most} ms: 1/{least / each:.0f} of the least",
        ),
    ]


def recovery(name: str, database: str) -> list[Figure]:
    """1,000 jobs run, the engine is killed, the jobs end meanwhile: from the next engine's start to the last end stored."""
    with engine(database) as (process, client), tempfile.TemporaryDirectory(prefix="dj-gate-") as folder:
        job = f"until [ -e {folder}/gate ]; do sleep 5; done; echo x >> {folder}/ended"
        with ThreadPoolExecutor(SUBMITTERS) as pool:
            list(pool.map(lambda _: apply(client, job), range(RUNS)))
        deadline = time.monotonic() + 300
        while sum(run.state == "running" for run in client.runs()) < RUNS:
            if time.monotonic() > deadline:
                raise SystemExit("the runs did not start")
            time.sleep(1)
        process.end(signal.SIGKILL)
        Path(folder, "gate").touch()
        while not Path(folder, "ended").exists() or Path(folder, "ended").stat().st_size < 2 * RUNS:
            time.sleep(0.2)
        time.sleep(5)
        began = time.perf_counter()
        process.start()
        while client.info().unfinished_runs < 1 and not client.info().store_open:
            time.sleep(0.02)
        all_ended(client, 120)
        seconds = time.perf_counter() - began
        found = client.runs(all=True)
        lost = sum(run.state != "done" for run in found)
        twice = Path(folder, "ended").stat().st_size // 2 - RUNS
    return [
        Figure(
            f"kill -9 with {RUNS} runs, {name}: start → all ends stored",
            seconds,
            "s",
            30,
            note=f"{lost} not done, {twice} jobs twice",
        )
    ]


def idle() -> list[Figure]:
    if missing := missing_tools():
        return [Figure(f"idle engine: not measured, needs {', '.join(missing)}", 0.0, "")]
    with jupyter_server(extension=False) as server:
        time.sleep(5)
        plain, began = resident(server.pid), cpu(server.pid)
        time.sleep(IDLE)
        without = (cpu(server.pid) - began) / IDLE * 100
    with (
        tempfile.TemporaryDirectory(prefix="dj-bench-") as folder,
        HostSet(Path(folder), count=1) as hosts,
        jupyter_server() as server,
    ):
        client = Client(Home.default(), start=False)
        ssh: dict[str, Any] = {"user": "root", "identity_file": str(hosts.key), "hosts": [host.ip for host in hosts]}
        client.apply_fleet(FleetRequest(configuration={"type": "fleet", "name": "bench", "ssh_config": ssh}))
        deadline = time.monotonic() + 60
        while any(host.state == "pending" for host in client.fleet("bench").hosts):
            if time.monotonic() > deadline:
                raise SystemExit("the host was not reached")
            time.sleep(0.1)
        time.sleep(5)
        began = cpu(server.pid)
        time.sleep(IDLE)
        used = (cpu(server.pid) - began) / IDLE * 100
        added = resident(server.pid) - plain
    note = f"Jupyter alone {without:.2f} %, with the engine {used:.2f} %"
    return [
        Figure("idle engine, one SSH host: CPU of a core", used - without, "%", 1, note=note),
        Figure("idle engine, one SSH host: memory added to Jupyter's", added, "MB", 90, note=f"Jupyter alone {plain:.0f} MB"),
    ]


def figures() -> list[Figure]:
    found = []
    with databases() as urls, tempfile.TemporaryDirectory(prefix="dj-bench-") as folder:
        # Engines of several homes use the PostgreSQL store, one after the other: they need the same key.
        os.environ[ENV_KEY_FILE] = f"{folder}/keys.json"
        for name, url in urls.items():
            found += no_ops(name, url)
        for name, url in urls.items():
            found += recovery(name, url)
        del os.environ[ENV_KEY_FILE]
    return found + idle()
