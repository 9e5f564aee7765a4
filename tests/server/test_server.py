"""The extension in a real Jupyter server: who hosts the engine, who may ask what, and that a start costs nothing."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dstack_jupyter.client import connect
from dstack_jupyter.models import endpoint
from dstack_jupyter.models.home import Home
from tests.client.test_client import apply, whole
from tests.conftest import alive, wait_until
from tools.lab_server import listening_port

TOKEN = "server-test-token"
API = "/dstack_jupyter/api/v1"


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes]:
        data = None if body is None else json.dumps(body).encode()
        # The server may be killed under us: nothing stays open then.
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, API + path, data, headers)
            with connection.getresponse() as response:
                return response.status, response.read()

    def authorised(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        status, text = self.ask(method, path, body, Authorization=f"token {TOKEN}")
        return status, json.loads(text)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(30)


def start(home: Home, *more: str) -> Server:
    folder = home.root.parent
    runtime = folder / f"runtime-{len(list(folder.glob('runtime-*')))}"
    command = [sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", "--port=0", "--ip=127.0.0.1"]
    path = folder / f"{runtime.name}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}", *more],
            env={**os.environ, "JUPYTER_RUNTIME_DIR": str(runtime)},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    wait_until(lambda: listening_port(runtime), 60, "the Jupyter server")
    return Server(process, listening_port(runtime) or 0, path)


@pytest.fixture
def server(home: Home) -> Iterator[Server]:
    found = start(home)
    wait_until(lambda: endpoint.read(home) is not None, what="the server's engine")
    yield found
    found.stop()


def test_the_server_hosts_the_engine_and_clients_find_it(server: Server, home: Home) -> None:
    client = connect(home)
    assert (client.info().host, client.info().pid) == ("server", server.process.pid)
    assert not client.info().store_open  # nobody has asked for anything yet
    run = apply(client, "echo hi").wait(20)
    assert run.state == "done"
    assert client.notices == []
    status, views = server.authorised("GET", "/runs?all=1")
    assert (status, [view["name"] for view in views]) == (200, [run.name])


def test_a_run_by_rest(server: Server) -> None:
    wanted = {"configuration": {"type": "task", "commands": ["echo hi"]}, "request_key": "k", "context": {"cwd": "/"}}
    status, view = server.authorised("POST", "/runs", wanted)
    assert (status, view["state"]) == (201, "submitted")
    status, text = server.ask("GET", f"/runs/{view['name']}/logs?follow=1", Authorization=f"token {TOKEN}")
    frames = [json.loads(line) for line in text.splitlines()]
    assert frames[-1]["type"] == "end"
    assert frames[-1]["run"]["state"] == "done"
    assert server.ask("GET", f"/runs/{view['name']}/logs/raw", Authorization=f"token {TOKEN}") == (200, b"hi\n")
    status, error = server.authorised("GET", "/runs/nosuch")
    assert (status, error["code"]) == (404, "not_found")
    status, error = server.authorised("POST", "/runs/plan", {"configuration": {"type": "task", "resouces": 1, "commands": ["a"]}})
    assert (status, error["code"]) == (400, "configuration_error")
    assert error["details"]["problems"][0]["key"] == "resouces"


def test_the_engine_ends_with_the_server_and_the_run_goes_on(home: Home, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    server = start(home)
    wait_until(lambda: endpoint.read(home) is not None)
    run = apply(connect(home), f"echo one; until [ -e {gate} ]; do sleep 0.02; done; echo two")
    wait_until(lambda: run.refresh().state == "running")
    server.stop()
    gate.touch()
    assert whole(run) == b"one\ntwo\n"  # a process of its own took over
    assert connect(home).info().host == "process"


def test_a_killed_server_is_followed_by_the_next_one_which_goes_on_by_itself(home: Home, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    server = start(home)
    wait_until(lambda: endpoint.read(home) is not None)
    run = apply(connect(home), f"until [ -e {gate} ]; do sleep 0.02; done; echo out")
    wait_until(lambda: run.refresh().state == "running")
    server.stop(signal.SIGKILL)
    second = start(home)
    try:
        wait_until(lambda: (endpoint.read(home) or 0) and connect(home).info().pid == second.process.pid)
        # It found unfinished work, so it did not wait for anybody to ask.
        wait_until(lambda: connect(home).info().unfinished_runs == 1)
        gate.touch()
        assert whole(run) == b"out\n"
    finally:
        second.stop()


def test_a_process_hands_over_to_a_server_and_a_follower_notices_nothing(home: Home, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    client = connect(home)
    run = apply(client, f"echo one; until [ -e {gate} ]; do sleep 0.02; done; echo two")
    first = client.info()
    assert first.host == "process"
    server = start(home)
    try:
        wait_until(lambda: (endpoint.read(home) or first).pid == server.process.pid, what="the handover")
        gate.touch()
        assert whole(run) == b"one\ntwo\n"
        assert client.info().host == "server"
        wait_until(lambda: not alive(first.pid))
    finally:
        server.stop()


def test_of_two_servers_one_acts_and_the_other_takes_over(home: Home) -> None:
    first, second = start(home), None
    try:
        wait_until(lambda: endpoint.read(home) is not None)
        second = start(home)
        assert second.authorised("GET", "/info")[1]["pid"] == first.process.pid
        first.stop(signal.SIGKILL)
        wait_until(lambda: (found := endpoint.read(home)) is not None and found.pid == second.process.pid, 30)
        assert second.authorised("GET", "/runs")[0] == 200
    finally:
        for server in (first, second):
            if server is not None:
                server.stop()


@pytest.mark.machines  # half a minute; the same with two hosts of one process, and faster, is in tests/engine/test_takeover.py
def test_r7_a_stopped_server_is_taken_over_from_changes_nothing_when_it_goes_on_and_is_a_client_then(
    home: Home, tmp_path: Path
) -> None:
    first = second = None
    try:
        first = start(home)
        wait_until(lambda: endpoint.read(home) is not None)
        run = apply(connect(home), f"echo up; until [ -e {tmp_path}/gate ]; do sleep 0.02; done; echo down")
        wait_until(lambda: run.refresh().state == "running")
        second = start(home)
        # The first one in the middle of its life, with the log of a running job in its hands.
        first.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        (tmp_path / "gate").touch()
        pid = second.process.pid
        wait_until(lambda: (found := endpoint.read(home)) is not None and found.pid == pid, 40, "the takeover")
        assert whole(run) == b"up\ndown\n"
        assert time.monotonic() - began < 30
        wait_until(lambda: connect(home).info().unfinished_runs == 0)
        story = [(event.kind, event.action) for event in connect(home).events(run=run.id)]
        first.process.send_signal(signal.SIGCONT)
        # It goes on as a client: what it is asked, the second one answers.
        wait_until(lambda: first.authorised("GET", "/info")[1]["pid"] == pid)
        assert first.authorised("GET", f"/runs/{run.id}")[1]["state"] == "done"
        another = apply(connect(home), "echo two").wait(20)
        assert (another.state, whole(another)) == ("done", b"two\n")
        assert [(event.kind, event.action) for event in connect(home).events(run=run.id)] == story
        assert "stepping down" in first.log.read_text()
        # And it is there when the second one goes.
        second.stop(signal.SIGKILL)
        wait_until(lambda: (found := endpoint.read(home)) is not None and found.pid == first.process.pid, 30)
        assert first.authorised("GET", f"/runs/{run.id}")[1]["state"] == "done"
    finally:
        for server in (first, second):
            if server is not None:
                server.process.send_signal(signal.SIGCONT)
                server.stop()


def test_what_is_not_in_the_table_does_not_exist(server: Server) -> None:
    for method, path in (("POST", "/engine/handover"), ("PUT", "/code/" + "0" * 64), ("GET", "/nothing"), ("POST", "/info")):
        status, _ = server.ask(method, path, {}, Authorization=f"token {TOKEN}")
        assert status in (404, 405), (method, path, status)


def test_importing_the_extension_loads_nothing_heavy() -> None:
    code = (
        "import sys, jupyter_server.serverapp\nbefore = set(sys.modules)\n"
        "import dstack_jupyter_server; dstack_jupyter_server._jupyter_server_extension_points()\n"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(json.loads(out.replace("'", '"')))
    assert not loaded & {"pandas", "sqlalchemy", "pydantic", "alembic", "asyncssh", "numpy", "boto3"}, loaded
