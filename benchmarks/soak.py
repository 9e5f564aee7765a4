"""A long day of one engine: ``python -m benchmarks.soak [SECONDS]`` (3600). Part of ``make soak``; CI does not run it.

A real engine in a process of its own, real jobs on this machine and, as root, on an SSH host; a client that submits, follows,
stops and aborts all the time. Every ten seconds the engine's process says how many tasks, descriptors and bytes it has. Flat
means: over the last three quarters of the time their slopes are below one task, one descriptor and ``MEMORY`` MiB an hour.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dstack_jupyter.client import Client, Run
from dstack_jupyter.models import endpoint
from dstack_jupyter.models.fleets_view import FleetRequest
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.runs import ApplyRequest, Context
from tests.hosts.hosts import HostSet, missing_tools

from .harness import Figure, machine

MEMORY = 4.0
EVERY = 10.0
SUBMITTERS = 3
PAUSE = 1.0
"""Seconds that each submitter rests between two runs, on average."""
WATCHED = """
import asyncio, gc, json, os, sys, threading, time
from dstack_jupyter.engine import __main__ as engine
from dstack_jupyter.engine.process import host

class Telling(host.EngineHost):
    def start(self):
        super().start()
        threading.Thread(target=self.tell, daemon=True).start()

    def tell(self):
        out = open(sys.argv[1], "a", buffering=1)
        page = os.sysconf("SC_PAGE_SIZE")
        while True:
            time.sleep(float(sys.argv[2]))
            loop = self._loop
            tasks = asyncio.run_coroutine_threadsafe(count(), loop).result(60)
            gc.collect()
            resident = int(open("/proc/self/statm").read().split()[1]) * page
            out.write(json.dumps([time.monotonic(), tasks, len(os.listdir("/proc/self/fd")), resident / 2**20]) + "\\n")

async def count():
    return len(asyncio.all_tasks())

engine.EngineHost = Telling
sys.exit(engine.main())
"""


def submit(client: Client, number: int, fleets: Sequence[str]) -> tuple[Run, bytes]:
    """One run of some kind, with the log that it must have; a stopped one has the beginning of it."""
    chance = random.Random(number)
    lines = chance.choice((1, 1, 20, 5000))
    text = b"".join(b"%d\n" % each for each in range(1, lines + 1))
    configuration: dict[str, Any] = {"type": "task", "name": f"soak-{number}", "shell": "sh", "commands": [f"seq {lines}"]}
    if fleets and chance.random() < 0.4:
        # Two blocks for three submitters: who comes too early waits.
        configuration |= {"fleets": list(fleets), "retry": {"on_events": ["no-capacity"], "duration": "10m"}}
    kind = chance.random()
    if kind > 0.7:
        configuration["commands"] = [f"seq {lines}; sleep 30"]
    run = client.apply(ApplyRequest(configuration=configuration, request_key=f"soak-{number}", context=Context(cwd="/")))
    if kind > 0.7:
        run.stop(abort=kind > 0.85)
    return run.wait(120), text


def load(home: Home, number: int, until: float, fleets: Sequence[str]) -> tuple[int, list[str]]:
    """Submit until then: (how many, what was wrong)."""
    client, done, wrong = Client(home, start=False), 0, []
    while time.monotonic() < until:
        run, text = submit(client, number + SUBMITTERS * done, fleets)
        log = run.raw()
        stopped = run.view.reason in ("stopped_by_user", "aborted_by_user")
        if not (text.startswith(log) if stopped else run.state == "done" and log == text):
            wrong.append(f"{run.name}: {run.state} {run.view.reason} {run.view.message}, {len(log)} of {len(text)} bytes")
        done += 1
        time.sleep(random.uniform(0, 2 * PAUSE))
    return done, wrong


def slopes(samples: np.ndarray) -> tuple[float, float, float]:
    """Of tasks, descriptors and MiB, an hour: of their medians in twelve parts of the last three quarters."""
    late = samples[len(samples) // 4 :]
    parts = np.array([np.median(part, axis=0) for part in np.array_split(late, 12)])
    hours = (parts[:, 0] - parts[0, 0]) / 3600
    tasks, descriptors, memory = (float(np.polyfit(hours, parts[:, column], 1)[0]) for column in (1, 2, 3))
    return tasks, descriptors, memory


def figures(seconds: float) -> list[Figure]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dj-soak-")))
        home, told = Home(folder / "state"), folder / "told"
        env = {**os.environ, "HOME": str(folder), "DSTACK_JUPYTER_HOME": str(home.root), "DSTACK_JUPYTER_DEFAULT_IMAGE": ""}
        process = subprocess.Popen(
            [sys.executable, "-c", WATCHED, str(told), str(min(EVERY, seconds / 60))], env=env, start_new_session=True
        )
        stack.callback(lambda: (process.send_signal(signal.SIGTERM), process.wait(30)))
        deadline = time.monotonic() + 60
        while endpoint.read(home) is None:
            if time.monotonic() > deadline:
                raise SystemExit("the engine did not start")
            time.sleep(0.05)
        fleets = []
        if not missing_tools():
            hosts = stack.enter_context(HostSet(folder / "hosts", count=1))
            ssh = {"user": "root", "identity_file": str(hosts.key), "hosts": [{"hostname": hosts[0].ip, "blocks": 2}]}
            client = Client(home, start=False)
            client.apply_fleet(FleetRequest(configuration={"type": "fleet", "name": "desk", "ssh_config": ssh}))
            while any(host.state == "pending" for host in client.fleet("desk").hosts):
                time.sleep(0.1)
            fleets = ["desk"]
        until = time.monotonic() + seconds
        with ThreadPoolExecutor(SUBMITTERS) as pool:
            parts = list(pool.map(lambda number: load(home, number, until, fleets), range(SUBMITTERS)))
        samples = np.array([json.loads(line) for line in told.read_text().splitlines()])
    done = sum(count for count, _ in parts)
    wrong = [line for _, lines in parts for line in lines]
    print("\n".join(wrong))
    tasks, descriptors, memory = slopes(samples)
    last = samples[-1]
    return [
        Figure(f"{seconds:.0f} s, {done} runs: ended otherwise than they should, or with another log", float(len(wrong)), "", 0),
        Figure("tasks: slope", abs(tasks), "an hour", 1, note=f"{last[1]:.0f} at the end"),
        Figure("file descriptors: slope", abs(descriptors), "an hour", 1, note=f"{last[2]:.0f} at the end"),
        Figure("memory: slope", memory, "MiB/h", MEMORY, note=f"{last[3]:.0f} MiB at the end"),
    ]


def main() -> int:
    print(f"machine: {machine()}\n")
    found = figures(float(sys.argv[1]) if len(sys.argv) > 1 else 3600.0)
    print("\n".join(map(str, found)))
    return 0 if all(figure.ok for figure in found) else 1


if __name__ == "__main__":
    sys.exit(main())
