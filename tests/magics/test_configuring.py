"""check, schema, backends, configure and doctor as a person meets them: a shell, a terminal, a kernel with a prompt."""

from __future__ import annotations

import json
import os
import pty
import select
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from dstack_jupyter.backends.config.file import load_config
from dstack_jupyter.models.home import Home

BAD = "type: task\ncommnds: [python train.py]\nresources: {gpu: 24GiB}\nenv: {TOKEN: canary-env-1}\n"
COMMAND = [sys.executable, "-m", "dstack_jupyter"]


def shell(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, input=stdin, timeout=60)


class TestShell:
    def test_check_prints_json_and_exits_with_1_for_faults(self, home: Home, tmp_path: Path) -> None:
        path = tmp_path / "run.dstack.yml"
        path.write_text(BAD)
        done = shell("check", str(path), "--json")
        found = json.loads(done.stdout)
        assert (done.returncode, found["valid"], found["kind"]) == (1, False, "task")
        assert found["errors"][0] == {
            "message": "unknown key",
            "hint": "did you mean 'commands'?",
            "key": "commnds",
            "file": str(path),
            "line": 2,
            "column": 1,
        }
        assert "canary" not in done.stdout + done.stderr
        told = shell("check", str(path)).stdout
        assert f"{path}: 2 faults" in told
        assert f"{path}:3:13: resources.gpu: expected memory" in told

    def test_a_valid_one_is_normalised(self, home: Home, tmp_path: Path) -> None:
        path = tmp_path / ".dstack.yml"
        path.write_text(
            "type: task\ncommands: [x]\nresources: {memory: 512MB.., gpu: 24GB}\nenv: {A: canary-2}\nmax_duration: 2h\n"
        )
        done = subprocess.run([*COMMAND, "check", "--json"], cwd=tmp_path, capture_output=True, text=True)
        found = json.loads(done.stdout)["configuration"]
        assert done.returncode == 0
        assert found["resources"]["memory"] == {"min": 0.5, "max": None}
        assert (found["max_duration"], found["stop_duration"], found["spot_policy"]) == (7200, 300, "on-demand")
        assert found["env"] == {"A": "***"}
        assert "valid (task)" in shell("check", str(path)).stdout
        assert json.loads(shell("check", "-", "--json", stdin=path.read_text()).stdout)["valid"]

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("", "is empty"),
            ("a: 1\n", "neither type, projects nor profiles"),
            ("typ: task\n", "did you mean 'type'?"),
            ("type: tsk\n", "did you mean 'task'?"),
            ("profiles: [{name: a, spot_policy: sometimes}]\n", "profiles.0.spot_policy"),
            ("- 1\n", "is not a map of keys"),
        ],
    )
    def test_what_is_no_configuration(self, home: Home, text: str, fault: str) -> None:
        done = shell("check", "-", stdin=text)
        assert done.returncode == 1
        assert fault in done.stdout

    def test_schema_backends_policy_and_help(self, home: Home) -> None:
        assert json.loads(shell("schema", "task").stdout)["properties"]["commands"]
        assert shell("schema", "tsk").returncode == 1
        assert json.loads(shell("backends", "policy", "aws").stdout)["Version"] == "2012-10-17"
        assert "Access Control" in shell("backends", "help", "vultr").stdout
        rows = json.loads(shell("backends", "--json").stdout)
        assert [row["backend"] for row in rows][:3] == ["local", "ssh", "aws"]
        assert json.loads(shell("backends", "check", "local", "--json").stdout)[0]["status"] == "granted"
        assert "needs a backend's name" in shell("backends", "check").stderr
        assert shell("backends", "check", "awss").returncode == 1
        assert json.loads(shell("backends", "lambda", "--json").stdout)[0]["backend"] == "lambda"
        assert "did you mean" in shell("backends", "polcy").stderr + shell("backends", "lamda").stderr
        assert "no rights to choose" in shell("backends", "check", "lambda").stderr

    def test_others_can_read_the_file_is_a_standing_warning_that_fix_mends(self, home: Home, tmp_path: Path) -> None:
        path = tmp_path / ".dstack/server/config.yml"
        path.parent.mkdir(parents=True)
        path.write_text("projects:\n- name: main\n  backends: [{type: lambda, creds: {type: api_key, api_key: canary-55}}]\n")
        path.chmod(0o644)
        for _ in range(2):
            assert "warning: others can read" in shell("backends").stderr
        assert "canary" not in shell("backends", "--json").stdout
        done = shell("doctor", "--fix")
        assert "chmod 600" in done.stderr
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert "warning" not in shell("backends").stderr

    def test_nobody_to_ask_saves_nothing(self, home: Home, tmp_path: Path) -> None:
        done = shell("configure", "lambda")
        assert done.returncode == 1
        assert "nobody can be asked here" in done.stderr
        assert not (tmp_path / ".dstack/server").exists()


def test_configure_in_a_terminal_shows_no_key(home: Home, tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [*COMMAND, "configure", "aws"])
    shown = b""
    answers = [(b"creds.type", b"access_key\n"), (b"creds.access_key: ", b"AKIAME\n")]
    answers.append((b"creds.secret_key: ", b"canary-secret-808\n"))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if answers and answers[0][0] in shown.rpartition(b"\n")[2]:
            os.write(terminal, answers.pop(0)[1])
            shown += b"\n"
        if select.select([terminal], [], [], 1)[0]:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # the other side has ended
                break
    assert os.waitpid(pid, 0)[1] == 0, shown.decode()
    assert b"aws is configured" in shown
    assert b"canary-secret-808" not in shown
    path = tmp_path / ".dstack/server/config.yml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = load_config(path).backends["main"]["aws"]
    assert config.creds.secret_key.reveal() == "canary-secret-808"  # type: ignore[attr-defined]


def test_a_key_that_is_typed_into_the_line_is_in_no_message_and_no_history(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    shown: list[str] = []

    def see(message: dict[str, Any]) -> None:
        if message["msg_type"] != "execute_input":  # the cell's own text
            shown.append(json.dumps(message["content"]))

    def run(code: str) -> None:
        client.execute_interactive(
            code,
            timeout=60,
            allow_stdin=True,
            stdin_hook=lambda _: client.input("canary-asked-31"),
            output_hook=see,
        )

    try:
        client.wait_for_ready(timeout=60)
        run("%load_ext dstack_jupyter")
        run("%dstack configure vultr")
        run("%dstack configure vultr --api-key canary-typed-32")
        run("x = %dstack configure lambda canary-typed-33")
        told = "".join(shown)
        assert "vultr is configured" in told
        assert told.count("asks for what is secret, unseen") >= 2
        assert "take it out of the cell" in told and "history.sqlite" not in told
        run("print([In, _ih, _i, _ii, _iii, _i1, _i2, _i3, _i4])")
        assert "what was typed here is not kept" in "".join(shown)
        run("1 + 1")
        run("2 + 2")
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    assert "canary" not in "".join(shown)
    (path,) = (tmp_path / "ipython").rglob("history.sqlite*")
    kept = sqlite3.connect(path).execute("SELECT source_raw FROM history ORDER BY line").fetchall()
    mended = "%dstack configure  # what was typed here is not kept"
    assert [line for (line,) in kept][1:4] == ["%dstack configure vultr", mended, mended]
    assert b"canary" not in path.read_bytes()


def test_a_key_that_is_typed_into_a_shell_s_line_is_in_no_message(home: Home) -> None:
    done = shell("configure", "lambda", "--api-key", "canary-typed-34")
    assert done.returncode == 2
    assert "make a new one" in done.stderr
    assert "canary" not in done.stdout + done.stderr


def test_configure_in_a_notebook_asks_beside_the_cell(home: Home, tmp_path: Path) -> None:
    """F65 ipywidgets#1793."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        shown: list[str] = []

        def answer(message: dict[str, dict[str, object]]) -> None:
            assert message["content"]["password"]
            client.input("canary-note-909")

        def see(message: dict[str, dict[str, object]]) -> None:
            shown.append(json.dumps(message["content"], default=str))

        client.execute_interactive("%load_ext dstack_jupyter", timeout=60, output_hook=see)
        reply = client.execute_interactive(
            "%dstack configure vultr", timeout=60, allow_stdin=True, stdin_hook=answer, output_hook=see
        )
        assert reply["content"]["status"] == "ok", shown
        assert "vultr is configured" in "".join(shown)
        assert "canary-note-909" not in "".join(shown)
        client.execute_interactive("%%dstack check\ntype: task\ncommnds: [x]\n", timeout=60, output_hook=see)
        assert "did you mean 'commands'" in shown[-2] + shown[-1]
        assert "text/html" in shown[-2] + shown[-1]
        assert "&lt;cell&gt;" in shown[-2] + shown[-1]
        before = len(shown)
        refused = client.execute_interactive("%dstack configure vultr", timeout=60, allow_stdin=False, output_hook=see)
        assert refused["content"]["status"] == "error"
        assert "nothing was saved" in "".join(shown[before:])
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert set(load_config(tmp_path / ".dstack/server/config.yml").backends["main"]) == {"vultr"}
