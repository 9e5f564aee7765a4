"""``%dstack`` in a real kernel with a real engine: what a person at a notebook sees."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from dstack_jupyter.client import connect
from dstack_jupyter.models.home import Home


@dataclass
class Output:
    """What came back of one cell; ``displays`` holds the last state of every display."""

    status: str = ""
    stdout: str = ""
    stderr: str = ""
    error: str = ""
    result: str = ""
    displays: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def view(self) -> str:
        return "\n".join(data["text/plain"] for data in self.displays.values())

    @property
    def html(self) -> str:
        return "\n".join(data["text/html"] for data in self.displays.values())


class Kernel:
    """A kernel and what its cells showed, updates of old cells included."""

    def __init__(self, cwd: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(cwd))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.displays: dict[str, dict[str, str]] = {}

    def send(self, code: str) -> str:
        message: str = self.client.execute(code, allow_stdin=False)
        return message

    def read(self, message: str, output: Output, timeout: float = 1.0) -> bool:
        """Take one message; True when the cell has ended."""
        try:
            got = self.client.get_iopub_msg(timeout=timeout)
        except Empty:
            return False
        kind, content = got["msg_type"], got["content"]
        if kind in ("display_data", "update_display_data"):
            identity = content["transient"].get("display_id") or got["header"]["msg_id"]
            self.displays[identity] = content["data"]
            if got["parent_header"].get("msg_id") == message:
                output.displays[identity] = content["data"]
        if got["parent_header"].get("msg_id") != message:
            return False
        if kind == "stream":
            setattr(output, content["name"], getattr(output, content["name"]) + content["text"])
        elif kind == "execute_result":
            output.result = content["data"]["text/plain"]
        elif kind == "error":
            output.error = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(content["traceback"]))
        return bool(kind == "status" and content["execution_state"] == "idle")

    def run(self, code: str, timeout: float = 60.0) -> Output:
        message = self.send(code)
        output = Output()
        deadline = time.monotonic() + timeout
        while not self.read(message, output):
            assert time.monotonic() < deadline, f"the cell did not end: {code}"
        output.status = "error" if output.error else "ok"
        return output

    def until(self, message: str, output: Output, text: str) -> None:
        deadline = time.monotonic() + 30
        while text not in output.view:
            assert time.monotonic() < deadline, output
            self.read(message, output)

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(home: Home, tmp_path: Path) -> Iterator[Kernel]:
    work = tmp_path / "notebooks"
    work.mkdir()
    found = Kernel(work)
    assert found.run("%load_ext dstack_jupyter").status == "ok"
    yield found
    found.stop()


def task(*commands: str, flags: str = "", **keys: str) -> str:
    lines = [f"%%dstack apply {flags}", "type: task", *(f"{key}: {value}" for key, value in keys.items()), "commands:"]
    return "\n".join([*lines, *(f"  - {command!r}" for command in commands)])


def test_a_cell_launches_a_run_and_its_log_comes_back(kernel: Kernel) -> None:
    output = kernel.run(task("echo hello from the run", flags="-n hello -o run"))
    assert output.status == "ok"
    assert "free" in output.stdout
    assert "hello: done" in output.view
    assert "hello from the run" in output.view
    assert kernel.run("(run.name, run.exit_code, str(run.state))").result == "('hello', 0, 'done')"
    assert kernel.run("log = %dstack logs hello\nlog.text").result == "'hello from the run\\n'"
    assert kernel.run("df = %dstack logs hello --df\nlist(df.columns)").result == "['time', 'job', 'line']"


def test_line_magics_return_objects_and_a_semicolon_silences(kernel: Kernel) -> None:
    offers = kernel.run("df = %dstack offers -b local\ntype(df).__module__.split('.')[0], len(df)")
    assert offers.result == "('pandas', 1)"
    assert kernel.run("%dstack backends;").result == ""
    assert "True" in kernel.run("b = %dstack backends\n('aws' in set(b.backend))").result
    sound = "any(line['check'] == 'engine' and line['ok'] for line in r.data)"
    assert kernel.run(f"r = %dstack doctor\n{sound}").result == "True"


def test_what_is_to_be_said_of_offers_stands_below_them(kernel: Kernel) -> None:
    output = kernel.run("%dstack offers --gpu H100:8 --max-offers 3")
    assert "a3-highgpu-8g" in output.result
    assert "aws: list prices of 2025-03-02" in output.view
    assert "no offers of lambda, " in output.view and "oci, " in output.view and ": not available yet" in output.view
    assert "<details" in output.html and "oci" in output.html
    assert output.stdout == ""
    # Once, and only for the cell that asked.
    assert kernel.run("1 + 1").view == ""
    none = kernel.run("df = %dstack offers --gpu H1000\n(len(df), df.attrs['empty'][:40], len(df.attrs['missing']) > 15)")
    assert none.result == "(0, 'no offer fits: `gpu name` removed the la', True)"
    assert "did you mean H100" in none.view


def test_offers_as_json_and_groups(kernel: Kernel) -> None:
    found = json.loads(kernel.run("%dstack offers --gpu H100:8 --max-offers 2 --json").stdout)
    assert (len(found["offers"]), found["offers"][0]["instance"]["name"]) == (2, "a3-highgpu-8g")
    groups = kernel.run(
        "g = %dstack offers --gpu 40GB.. --group-by gpu,backend\nlist(g.columns)[:4], bool(g.price_per_gpu.min() > 0)"
    )
    assert groups.result == "(['gpu_vendor', 'gpu_name', 'gpu_memory_gb', 'backend'], True)"
    assert "region needs backend" in kernel.run("%dstack offers --group-by gpu,region").error


def test_a_list_price_is_never_launched(kernel: Kernel, home: Home) -> None:
    output = kernel.run(
        "%%dstack apply -y -n dear\ntype: task\ncommands: [nvidia-smi]\nresources: {gpu: H100:8}\nbackends: [aws]"
    )
    assert "NoCapacity: no offer fits (aws: not available yet)" in output.error
    assert connect(home).runs(all=True) == []


def test_a_failed_run_fails_the_cell_with_two_lines(kernel: Kernel) -> None:
    output = kernel.run(task("echo before", "no-such-command-7", flags="-n bad"))
    assert output.status == "error"
    assert output.error.splitlines()[0] == "RunFailed: run bad failed: exit code 127: a command was not found"
    assert output.error.splitlines()[1].startswith("hint: ")
    assert "Traceback" not in output.error
    assert "no-such-command-7: command not found" in output.view


def test_a_yaml_typo_names_line_key_and_the_near_one(kernel: Kernel) -> None:
    output = kernel.run("%%dstack apply\ntype: task\ncommands: [ls]\nresouces: {gpu: 24GB}\n")
    assert output.status == "error"
    assert "<cell>:4:1: resouces: unknown key (did you mean 'resources'?)" in output.error


def test_interrupt_detaches_and_the_output_goes_on(kernel: Kernel, home: Home, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    message = kernel.send(task(f"echo one; until [ -e {gate} ]; do sleep 0.02; done; echo two", flags="-n long"))
    output = Output()
    kernel.until(message, output, "one")
    kernel.manager.interrupt_kernel()
    deadline = time.monotonic() + 20
    while not kernel.read(message, output):
        assert time.monotonic() < deadline
    assert output.error == ""
    identity = next(iter(output.displays))
    assert kernel.run("1 + 1").result == "2"
    gate.touch()
    while "two" not in kernel.displays[identity]["text/plain"]:
        assert time.monotonic() < deadline + 20
        kernel.read("", Output())
    assert connect(home).run("long").wait(20).state == "done"
    assert "detached" in kernel.displays[identity]["text/plain"]


def test_a_kernel_restart_in_the_middle_of_a_run_loses_nothing(kernel: Kernel, home: Home, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    message = kernel.send(task(f"seq 500; until [ -e {gate} ]; do sleep 0.02; done; seq 501 1000", flags="-n long"))
    kernel.until(message, Output(), "500")
    kernel.manager.restart_kernel(now=True)
    kernel.client.wait_for_ready(timeout=60)
    gate.touch()
    kernel.run("%load_ext dstack_jupyter")
    output = kernel.run("run = %dstack attach long")
    assert output.status == "ok"
    assert "long: done" in output.view
    expected = "".join(f"{number}\n" for number in range(1, 1001))
    assert kernel.run("run.logs().text").result == repr(expected)


def test_script_tags_and_escape_sequences_are_shown_as_text(kernel: Kernel) -> None:
    output = kernel.run(task(r"printf '<script>alert(1)</script>\033]0;owned\007\033[31mred\033[0m\033[2J\n'", flags="-n evil"))
    assert "<script" not in output.html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in output.html
    assert "\x1b" not in output.html + output.view
    assert "owned" not in output.html
    assert ">red</span>" in output.html


def test_a_second_apply_under_an_active_name_is_refused(kernel: Kernel, home: Home) -> None:
    kernel.run(task("sleep 60", flags="-n train -d"))
    output = kernel.run(task("echo other", flags="-n train"))
    assert output.status == "error"
    assert "Conflict: a run named 'train' is active" in output.error
    assert "%dstack attach train" in output.error
    assert connect(home).run("train").state in ("submitted", "provisioning", "running")
    assert "terminat" in kernel.run("%dstack stop train --abort").result


def test_code_beside_the_notebook_goes_with_the_run(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "notebooks" / "train.py").write_text("import sys; print(sys.executable); open('result.txt', 'w').write('42')")
    output = kernel.run(task("python train.py", flags="-n code", files="[train.py]"))
    assert output.status == "ok", output
    # `python` is the notebook's own.
    assert kernel.run("import sys; sys.executable").result.strip("'").rpartition("/")[0] in output.view
    assert "result.txt" in kernel.run("%dstack pull code result.txt").result
    assert (tmp_path / "notebooks" / "result.txt").read_text() == "42"


def test_a_folder_goes_with_its_uncommitted_changes_and_without_what_is_ignored(kernel: Kernel, tmp_path: Path) -> None:
    project = tmp_path / "notebooks"
    (project / ".gitignore").write_text("data/\n")
    (project / "data").mkdir()
    (project / "data" / "large.bin").write_text("x")
    (project / "train.py").write_text("import os; print(sorted(os.listdir()))")
    output = kernel.run(task("python train.py", flags="-n repo", repos="[.]"))
    assert "['.gitignore', 'train.py']" in output.view


def test_missing_files_are_named(kernel: Kernel) -> None:
    missing = kernel.run(task("ls", flags="-n gone", files="[trian.py]"))
    assert "NotFound: there is no file or folder 'trian.py'" in missing.error
    assert "NotFound: there is no file nosuch.yml" in kernel.run("%dstack apply -f nosuch.yml").error


def test_a_ten_megabyte_yaml_and_an_alias_bomb_are_refused_at_once(kernel: Kernel, tmp_path: Path) -> None:
    (tmp_path / "notebooks" / "big.yml").write_text("commands: ['" + "x" * 10_000_000 + "']")
    assert "LimitExceeded" in kernel.run("%dstack apply -f big.yml").error
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
    )
    assert "more than 20000 nodes" in kernel.run(f"%%dstack apply\n{bomb}").error.replace(",", "")


def test_the_log_limit_of_a_cell_is_the_last_200_lines_and_the_rest_is_a_command_away(kernel: Kernel) -> None:
    output = kernel.run(task("seq 5000", flags="-n many"))
    assert "4800 earlier lines" in output.view
    assert "\n5000" in output.view
    assert kernel.run("log = %dstack logs many\nlen(log.lines)").result == "5000"


def test_help_and_near_commands(kernel: Kernel) -> None:
    assert "apply" in kernel.run("%dstack").stdout
    assert "--max-duration" in kernel.run("%dstack apply -h").stdout
    assert "did you mean 'apply'?" in kernel.run("%dstack aply").error
    assert "did you mean --name?" in kernel.run("%dstack apply --nme x").error
    assert "close the quotes" in kernel.run("%dstack logs 'x").error


def test_tab_completion(kernel: Kernel) -> None:
    kernel.run(task("true", flags="-n finished -o done"))
    kernel.run("%dstack ps -a;")

    def complete(code: str) -> list[Any]:
        reply = kernel.client.complete(code, reply=True, timeout=20)
        matches: list[Any] = reply["content"]["matches"]
        return matches

    assert complete("%dstack of") == ["offers"]
    assert "--max-duration" in complete("%dstack apply --max")
    assert complete("%dstack logs fin") == ["finished"]
    assert complete("%dstack offers -b dig") == ["digitalocean"]
    assert complete("%dstack offers --gpu H10") == ["H100", "H100NVL"]
    assert complete("%dstack offers -b gcp --region europe-north") == ["europe-north1", "europe-north2"]
    assert complete("%dstack offers -b aws --instance-type p5.") == ["p5.48xlarge", "p5.4xlarge"]
    assert "gpu,backend" in complete("%dstack offers --group-by gpu,b")
    assert "--group-by" in complete("%dstack offers --gr")
    assert complete("%dstack backends pol") == ["policy"]
    assert complete("%dstack backends policy az") == ["azure"]
    assert complete("%dstack configure run") == ["runpod"]
    assert complete("%dstack schema dev") == ["dev-environment"]
