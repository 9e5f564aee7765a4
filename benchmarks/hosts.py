"""SSH hosts: how soon a job's first byte is in the cell, a flood of lines, many jobs on many hosts with a link that is cut.

Real sshd and dockerd in network namespaces (tests/hosts); needs root. `python -m benchmarks hosts`; about five minutes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dstack_jupyter.client import Client, Run, connect
from dstack_jupyter.engine.jobs import ENV_IMAGE
from dstack_jupyter.models.fleets_view import FleetRequest
from dstack_jupyter.models.runs import ApplyRequest, Context, LogFrame
from tests.hosts.fixtures import BUSYBOX
from tests.hosts.hosts import Host, HostSet, missing_tools
from tests.hosts.images import busybox_image

from .harness import Figure, engine, median, quantile

SECONDS = 60
RATE = 200_000
LINES = RATE * SECONDS
FLOOD = (
    'use Time::HiRes qw(time sleep); my $line = ("x" x 92) . "%07d\\n"; my $n = 0; my $began = time;'
    f" while ($n < {LINES}) {{ my $due = int((time - $began) * {RATE}); $due = {LINES} if $due > {LINES};"
    ' my $out = ""; while ($n < $due) { $out .= sprintf($line, $n++ % 10000000); } print $out; sleep 0.01; }'
)


def apply(client: Client, name: str, *commands: str, **more: Any) -> Run:
    configuration = {"type": "task", "name": name, "commands": list(commands), "shell": "sh", "fleets": ["bench"], **more}
    return client.apply(ApplyRequest(configuration=configuration, request_key=secrets.token_hex(8), context=Context(cwd="/")))


def fleet(client: Client, hosts: HostSet, **more: Any) -> None:
    """Apply the fleet of all hosts and wait until each can be used."""
    ssh = {"user": "root", "identity_file": str(hosts.key), "hosts": [host.ip for host in hosts]}
    configuration = {"type": "fleet", "name": "bench", "ssh_config": ssh, **more}
    view = client.apply_fleet(FleetRequest(configuration=configuration))
    deadline = time.monotonic() + 60
    while any(host.state == "pending" for host in view.hosts):
        if time.monotonic() > deadline:
            raise RuntimeError([host.message for host in view.hosts])
        time.sleep(0.05)
        view = client.fleet("bench")


def first_byte(client: Client, name: str, **more: Any) -> float:
    """Seconds from apply to the first log byte in a client outside the engine."""
    began = time.perf_counter()
    run = apply(client, name, "echo first; sleep 0.05", **more)
    taken = next(time.perf_counter() - began for frame in run.stream() if isinstance(frame, LogFrame))
    run.wait(30)
    return taken


def warm(client: Client) -> list[Figure]:
    found = []
    for what, limit, more in (("process", 0.25, {}), ("Docker", 0.6, {"image": BUSYBOX})):
        first_byte(client, f"warm-{what.lower()}", **more)
        taken = [first_byte(client, f"first-{what.lower()}", **more) for _ in range(15)]
        found.append(Figure(f"warm host, {what}: apply → first log byte, median", median(taken), "s", limit, note="15 runs"))
    return found


def status_calls(client: Client, stop: threading.Event) -> list[float]:
    """`GET /info` ten times a second until ``stop``: seconds of each."""
    taken = []
    while not stop.wait(0.1):
        began = time.perf_counter()
        client.info()
        taken.append(time.perf_counter() - began)
    return taken


def flood(client: Client, hosts: HostSet) -> list[Figure]:
    quiet = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        idle = pool.submit(status_calls, client, quiet)
        time.sleep(10)
        quiet.set()
        calm = quantile(idle.result(), 0.99)
        busy = threading.Event()
        loaded = pool.submit(status_calls, client, busy)
        began = time.perf_counter()
        run = apply(client, "flood", f"perl -e '{FLOOD}'")
        run.wait(600)
        seconds = time.perf_counter() - began
        busy.set()
        under_load = quantile(loaded.result(), 0.99)
    host = next(host for host in hosts if host.ip == run.view.instance_type)
    attempt = run.view.attempts[-1].id
    there = host.do(f"sha256sum ~/.dstack_jupyter/jobs/{attempt}/log", timeout=120).split()[0]
    raw = run.raw()
    same = hashlib.sha256(raw).hexdigest() == there
    limit = max(0.1, 2 * calm)
    note = f"{len(raw) / 2**20:.0f} MiB, all stored {seconds:.0f} s after apply"
    return [
        Figure(
            f"{RATE} lines/s for {SECONDS} s: sha256 of the log is that on the host", float(same), "", 1, at_least=True, note=note
        ),
        Figure("GET /info beside it, p99", under_load, "s", limit, note=f"p99 without load {calm:.4f} s"),
    ]


COUNTER = "n=0; echo start; while [ $n -lt 200 ]; do n=$((n+1)); echo $n; sleep 0.5; done; echo end"


def many(folder: Path) -> list[Figure]:
    found = []
    with HostSet(folder / "twenty", count=20) as hosts, engine():
        client = connect()
        for host in hosts:
            host.add_tool("nproc", "#!/bin/sh\necho 10\n")  # ten blocks need ten cores
        fleet(client, hosts, blocks=10)
        began = time.perf_counter()
        with ThreadPoolExecutor(8) as pool:
            runs = list(pool.map(lambda number: apply(client, f"many-{number}", COUNTER), range(200)))
        while any(run.refresh().state in ("submitted", "provisioning") for run in runs):
            time.sleep(0.5)
        started = time.perf_counter() - began
        for host in hosts[:5]:
            host.cut()
        time.sleep(60)
        for host in hosts[:5]:
            host.join()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda run: run.wait(300), runs))
        failed = [run.name for run in runs if run.state != "done"]
        wanted = b"start\n" + b"".join(b"%d\n" % number for number in range(1, 201)) + b"end\n"
        wrong = [run.name for run in runs if run.raw() != wanted]
        found.append(
            Figure("20 hosts, 200 jobs at once: failed", float(len(failed)), "", 0, note=f"all running after {started:.0f} s")
        )
        found.append(Figure("logs with a byte missing, doubled or restarted; 5 links cut for 60 s", float(len(wrong)), "", 0))
        found.append(silence(client, hosts[19]))
    return found


def silence(client: Client, host: Host) -> Figure:
    """How long until a stopped sshd is shown as unreachable."""
    run = apply(client, "silent", "sleep 300", instance_types=[host.ip])
    while run.refresh().state != "running":
        time.sleep(0.05)
    host.stop_sshd()
    began = time.perf_counter()
    while not any(condition.type == "unreachable" for condition in run.refresh().view.conditions):
        if time.perf_counter() - began > 120:
            break
        time.sleep(0.1)
    taken = time.perf_counter() - began
    host.continue_sshd()
    run.stop(abort=True).wait(120)
    return Figure("SIGSTOP of sshd → shown as unreachable", taken, "s", 60)


def figures() -> list[Figure]:
    lacking = missing_tools(docker=True)
    if lacking:
        return [Figure(f"SSH hosts: not measured, needs {', '.join(lacking)}", 0.0, "")]
    os.environ[ENV_IMAGE] = ""
    with tempfile.TemporaryDirectory(prefix="dj-bench-") as name:
        folder = Path(name)
        with HostSet(folder / "three", count=2, docker=True) as hosts, engine():
            for host in hosts:
                host.load(busybox_image(folder), BUSYBOX)
            client = connect()
            fleet(client, hosts)
            found = warm(client) + flood(client, hosts)
        return found + many(folder)
