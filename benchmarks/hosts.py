"""SSH hosts: how soon a job's first byte is in the cell, a flood of lines, many jobs on many hosts with a link that is cut.

Real sshd and dockerd in network namespaces (tests/hosts); needs root. `python -m benchmarks hosts`; about five minutes.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jupyter_client.manager import start_new_kernel

from dstack_jupyter.client import Client, Run, connect
from dstack_jupyter.engine.jobs.spec import ENV_IMAGE
from dstack_jupyter.models.fleets_view import FleetRequest
from dstack_jupyter.models.runs import ApplyRequest, Context
from tests.hosts.fixtures import BUSYBOX
from tests.hosts.hosts import Host, HostSet, missing_tools
from tests.hosts.images import busybox_image

from .harness import Figure, Server, engine, jupyter_server, median, quantile

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


class Cell:
    """A kernel whose cells are run by this process: what arrives on iopub is what a notebook shows."""

    def __enter__(self) -> Cell:
        self.manager, self.client = start_new_kernel(kernel_name="python3")
        self.client.execute_interactive("%load_ext dstack_jupyter", timeout=60, output_hook=lambda _: None)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)

    def first_byte(self, **more: Any) -> float:
        """Seconds from the execution of an apply cell to the first byte of its log on iopub."""
        mark = secrets.token_hex(8)
        # The job prints what does not stand in the cell, so nothing but its log can show it.
        configuration = {"type": "task", "commands": [f"echo {mark} | rev"], "shell": "sh", "fleets": ["bench"], **more}
        taken: list[float] = []

        def look(message: dict[str, Any]) -> None:
            content = message["content"]
            text = str(content.get("data", {}).get("text/plain", "")) + str(content.get("text", ""))
            if mark[::-1] in text and not taken:
                taken.append(time.perf_counter() - began)

        began = time.perf_counter()
        self.client.execute_interactive(f"%%dstack apply\n{json.dumps(configuration)}", timeout=60, output_hook=look)
        if not taken:
            raise SystemExit("the log of the job did not arrive in the cell")
        return taken[0]


def warm() -> list[Figure]:
    found = []
    with Cell() as cell:
        for what, limit, more in (("process", 0.25, {}), ("Docker", 0.6, {"image": BUSYBOX})):
            cell.first_byte(**more)
            taken = [cell.first_byte(**more) for _ in range(15)]
            found.append(
                Figure(
                    f"warm host, {what}: apply → first log byte in the cell, median", median(taken), "s", limit, note="15 runs"
                )
            )
    return found


def status_calls(server: Server, stop: threading.Event) -> list[float]:
    """`GET /api/status` of Jupyter ten times a second until ``stop``: seconds of each, from when it was due."""
    taken = []
    due = time.perf_counter()
    while not stop.wait(max(0.0, due - time.perf_counter())):
        late = max(0.0, time.perf_counter() - due)
        taken.append(late + server.status())
        due += 0.1
    return taken


def flood(client: Client, server: Server, hosts: HostSet) -> list[Figure]:
    quiet = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        idle = pool.submit(status_calls, server, quiet)
        time.sleep(10)
        quiet.set()
        calm = quantile(idle.result(), 0.99)
        busy = threading.Event()
        loaded = pool.submit(status_calls, server, busy)
        began = time.perf_counter()
        run = apply(client, "flood", f"perl -e '{FLOOD}'")
        run.wait(600)
        seconds = time.perf_counter() - began
        busy.set()
        under_load = quantile(loaded.result(), 0.99)
    host = next(host for host in hosts if host.ip == run.view.instance_type)
    attempt = run.view.attempts[-1].id
    there = host.do(f"sha256sum ~/.dstack_jupyter/jobs/{attempt}/log", timeout=120).split()[0]
    raw = subprocess.run(
        [sys.executable, "-m", "dstack_jupyter", "logs", "flood", "--raw"], stdout=subprocess.PIPE, check=True
    ).stdout
    same = hashlib.sha256(raw).hexdigest() == there
    limit = max(0.1, 2 * calm)
    note = f"{len(raw) / 2**20:.0f} MiB, all stored {seconds:.0f} s after apply"
    return [
        Figure(
            f"{RATE} lines/s for {SECONDS} s: sha256 of `logs --raw` is that on the host",
            float(same),
            "",
            1,
            at_least=True,
            note=note,
        ),
        Figure("GET /api/status beside it, 10 a second, p99", under_load, "s", limit, note=f"p99 without load {calm:.4f} s"),
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
        with HostSet(folder / "three", count=2, docker=True) as hosts, jupyter_server() as server:
            for host in hosts:
                host.load(busybox_image(folder), BUSYBOX)
            client = connect()
            fleet(client, hosts)
            found = warm() + flood(client, server, hosts)
        return found + many(folder)
