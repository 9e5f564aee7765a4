"""The client against real engine processes: found, started, killed, replaced."""

from __future__ import annotations

import base64
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dstack_jupyter.client import Client, Run, connect
from dstack_jupyter.client.log import Log, Piece
from dstack_jupyter.models import endpoint
from dstack_jupyter.models.errors import Conflict, EngineUnavailable, NotFound, NotSupportedYet
from dstack_jupyter.models.frames import EndFrame, LogFrame
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.runs import ApplyRequest, Context
from dstack_jupyter.transport import open_response
from tests.conftest import alive, end_engine, wait_until


def apply(client: Client, *commands: str, **more: object) -> Run:
    configuration = {"type": "task", "commands": list(commands), **more}
    key = secrets.token_hex(8)
    return client.apply(ApplyRequest(configuration=configuration, request_key=key, context=Context(cwd="/")))


def whole(run: Run) -> bytes:
    log = b""
    for frame in run.stream():
        if isinstance(frame, LogFrame):
            assert frame.offset == len(log)
            log += base64.b64decode(frame.data)
    return log


def test_the_first_call_starts_an_engine_and_says_so(home: Home) -> None:
    client = connect(home)
    run = apply(client, "echo hi").wait(20)
    assert (run.state, run.exit_code, run.logs().text) == ("done", 0, "hi\n")
    assert [notice.split(" (")[0] for notice in client.notices] == ["started an engine"]
    assert client.info().host == "process"


def test_no_engine_is_started_when_none_is_wanted(home: Home) -> None:
    with pytest.raises(EngineUnavailable, match="no engine runs"):
        connect(home, start=False).runs()
    assert not home.endpoint.exists()


def test_two_clients_that_start_at_the_same_moment_share_one_engine(home: Home) -> None:
    code = "from dstack_jupyter.client import connect; print(connect().info().pid)"
    clients = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    pids = {client.communicate(timeout=60)[0].strip() for client in clients}
    assert len(pids) == 1
    assert "" not in pids


def test_a_stale_endpoint_is_ignored(home: Home) -> None:
    home.create()
    endpoint.Endpoint(pid=os.getpid(), socket="/nonexistent/engine.sock", host="process", started=0.0).write(home)
    assert connect(home).info().host == "process"


def test_an_engine_of_another_version_is_named(home: Home) -> None:
    connect(home).info()
    code = (
        "from dstack_jupyter.client import discovery, connect; discovery.API_VERSION = 99\n"
        "try:\n    connect().runs()\nexcept Exception as error:\n    print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "speaks API version 1, this client 99" in out
    assert "restart the Jupyter server and this kernel" in out


def test_a_killed_engine_costs_a_follower_no_byte_and_a_run_nothing(home: Home, tmp_path: Path) -> None:
    client = connect(home)
    gate = tmp_path / "gate"
    run = apply(client, f"echo x >> {tmp_path}/count; seq 1000; until [ -e {gate} ]; do sleep 0.02; done; seq 1001 2000")
    log = b""
    killed = 0
    for frame in run.stream():
        if isinstance(frame, LogFrame):
            assert frame.offset == len(log)
            log += base64.b64decode(frame.data)
            if not killed and log.endswith(b"1000\n"):
                killed = client.info().pid
                os.kill(killed, signal.SIGKILL)
                gate.touch()
    assert killed
    assert run.state == "done"
    assert log == b"".join(b"%d\n" % number for number in range(1, 2001))
    assert (tmp_path / "count").read_text() == "x\n"
    assert run.raw() == log


def test_the_engine_ends_when_nothing_was_asked_for_a_while(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSTACK_JUPYTER_IDLE_EXIT", "1")
    client = connect(home)
    run = apply(client, "sleep 2; echo late")
    pid = client.info().pid
    assert whole(run) == b"late\n"  # it did not end while a run went on
    wait_until(lambda: not alive(pid), what="the idle engine's end")
    assert connect(home).run(run.id).state == "done"


def test_an_interrupt_gets_through_at_once_and_stops_nothing(home: Home) -> None:
    code = (
        "import secrets, signal; from dstack_jupyter.client import connect; from dstack_jupyter.models.runs import *\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where the tests run in the background
        "run = connect().apply(ApplyRequest(configuration={'type': 'task', 'name': 'long', 'commands': ['echo up; sleep 60']},"
        " request_key='k', context=Context(cwd='/')))\n"
        "print('waiting', flush=True)\n"
        "try:\n    run.wait()\nexcept KeyboardInterrupt:\n    print('interrupted', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    run = connect(home).run("long")
    wait_until(lambda: run.refresh().state == "running")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert out == "interrupted\n"
    assert time.monotonic() - began < 5
    assert run.refresh().state == "running"


def test_waiting_has_an_end_when_one_is_set(home: Home) -> None:
    run = apply(connect(home), "sleep 60", env={"KEY": "canary-51f0"})
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="is still"):
        run.wait(1)
    assert time.monotonic() - began < 10
    # What is shown of a run names its variables and hides their values.
    assert "canary-51f0" not in run.refresh().view.model_dump_json()
    assert run.view.configuration["env"] == {"KEY": "***"}


def test_errors_cross_the_wire_as_themselves(home: Home) -> None:
    client = connect(home)
    run = apply(client, "sleep 60", name="train")
    with pytest.raises(Conflict, match="'train' is active") as conflict:
        apply(client, "true", name="train")
    assert "%dstack stop train" in conflict.value.hint
    with pytest.raises(NotFound):
        client.run("{r.name}")
    with pytest.raises(NotSupportedYet, match="python"):
        apply(client, "true", python="3.12")
    run.stop(abort=True)
    assert run.wait(20).view.reason == "aborted_by_user"


def test_the_same_request_again_is_the_same_run(home: Home) -> None:
    client = connect(home)
    wanted = ApplyRequest(configuration={"type": "task", "commands": ["true"]}, request_key="k", context=Context(cwd="/"))
    assert client.apply(wanted).id == client.apply(wanted).id


def test_many_followers_see_the_same_bytes(home: Home) -> None:
    run = apply(connect(home), "for i in $(seq 50); do echo $i; sleep 0.01; done")
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(whole(Run(run._client, run.view)))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(found) == {b"".join(b"%d\n" % number for number in range(1, 51))}


def test_another_user_is_refused_by_the_socket(home: Home) -> None:
    connect(home).info()
    found = endpoint.read(home)
    assert found is not None
    assert os.stat(found.socket).st_mode & 0o777 == 0o600
    assert os.stat(Path(found.socket).parent).st_mode & 0o777 == 0o700
    if os.getuid() != 0:
        pytest.skip("only root can try as another user")
    # The folder and the socket are opened to all, so that what answers is the check of the peer itself.
    os.chmod(found.socket, 0o666)
    os.chmod(Path(found.socket).parent, 0o755)
    code = (
        "import os, socket\nos.setgid(65534); os.setuid(65534)\n"
        f"s = socket.socket(socket.AF_UNIX); s.connect({found.socket!r})\n"
        "s.sendall(b'GET /dstack_jupyter/api/v1/runs HTTP/1.0\\r\\n\\r\\n'); print(s.recv(100).split()[1].decode())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "403\n"


def test_pull_writes_below_the_folder_it_was_told(home: Home, tmp_path: Path) -> None:
    run = apply(connect(home), "mkdir -p a/b; echo 1 > a/b/c; echo 2 > a/d").wait(20)
    assert sorted(run.pull("a", tmp_path / "got")) == [tmp_path / "got/b/c", tmp_path / "got/d"]
    assert (tmp_path / "got/b/c").read_text() == "1\n"
    with pytest.raises(NotFound, match="no 'nope'"):
        run.pull("nope", tmp_path)


def test_pull_keeps_a_file_that_was_edited_since(home: Home, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    run = apply(connect(home), "echo theirs > train.py; echo 1 > metrics").wait(20)
    assert sorted(run.pull(".", here)) == [here / "metrics", here / "train.py"]
    (here / "train.py").write_text("mine\n")
    pulled = run.pull(".", here)
    assert (pulled, pulled.kept) == ([here / "metrics"], [here / "train.py"])
    assert (here / "train.py").read_text() == "mine\n"
    assert sorted(run.pull(".", here, overwrite=True)) == [here / "metrics", here / "train.py"]
    assert (here / "train.py").read_text() == "theirs\n"


def test_stopping_the_engine_in_the_middle_ends_no_run(home: Home, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    client = connect(home)
    run = apply(client, f"until [ -e {gate} ]; do sleep 0.02; done; echo out")
    wait_until(lambda: run.refresh().state == "running")
    end_engine(home)
    gate.touch()
    assert whole(run) == b"out\n"
    assert isinstance(list(run.stream())[-1], EndFrame)


class TestLog:
    def test_a_frame_has_the_time_of_each_line(self) -> None:
        log = Log("r", [Piece(1.0, b"one\ntw"), Piece(2.0, b"o\nthree"), Piece(3.0, b"\n\nlast")])
        frame = log.frame()
        assert list(frame["line"]) == ["one", "two", "three", "", "last"]
        assert [stamp.timestamp() for stamp in frame["time"]] == [1.0, 1.0, 2.0, 3.0, 3.0]
        assert str(frame["time"].dt.tz) == "UTC"

    def test_tail(self) -> None:
        log = Log("r", [Piece(1.0, b"1\n2\n"), Piece(2.0, b"3\n4")])
        assert log.tail(2).text == "3\n4"
        assert log.tail(3).text == "2\n3\n4"
        assert log.tail(99).text == "1\n2\n3\n4"
        assert log.tail(0).text == ""

    def test_a_display_shows_the_end_and_says_what_it_leaves_out(self) -> None:
        log = Log("r", [Piece(1.0, b"".join(b"%d\n" % number for number in range(5000)))])
        assert repr(log).startswith("… 3000 earlier lines")
        assert repr(log).endswith("\n4999")
        assert "4999" in log._repr_html_()
        assert "3000 earlier lines" in log._repr_html_()
        evil = Log("r", [Piece(1.0, b"<b>\x1b]0;t\x07\x1b[31mx"), Piece(2.0, b"", "a gap")])
        assert repr(evil) == "<b>x\na gap"
        assert "<b>" not in evil._repr_html_()

    def test_an_empty_log(self) -> None:
        assert Log("r").frame().empty
        assert Log("r").tail(5).text == ""


def test_an_engine_does_not_end_while_somebody_waits_for_its_answer(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSTACK_JUPYTER_IDLE_EXIT", "1")
    client = connect(home)
    pid = client.info().pid
    # What has no events says nothing: this waits five seconds, five times the engine's patience.
    with pytest.raises(TimeoutError):
        open_response(client.socket(), "GET", "/events", query={"follow": 1}, timeout=5)
    assert alive(pid)
    wait_until(lambda: not alive(pid), what="the idle engine's end")
