"""What a job's shell does with its commands, and what a stop leaves a job: jobs are asked, under every shell that supervises."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dstack_jupyter.machines import job_folder
from dstack_jupyter.machines.base import Ending, JobSpec
from dstack_jupyter.machines.local import clean_environment
from dstack_jupyter.machines.shells import command_line
from tests.machines.test_job_folder import SHELLS, spec, supervise


def ran(folder: Path, *commands: str, shell: str = "/bin/bash", **more: object) -> tuple[int, str]:
    """(exit code, log) of a job on this machine."""
    ending = supervise(folder, spec(*commands, shell=shell, **more))
    assert ending.cause == ""
    return ending.exit_code, (folder / "log").read_text()


class TestCommands:
    """As ``bash -c`` of all of them: each stands alone, the next one runs only after success."""

    @pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])
    @pytest.mark.parametrize(
        ("commands", "code", "log"),
        [
            (["set -e\nfalse\necho went on", "echo next"], 1, ""),
            (["set -eu\n(false; echo went on)\necho after", "echo next"], 1, ""),
            (["set -o errexit", "f() { false; echo went on; }", "f", "echo next"], 1, ""),
            (["false\necho went on"], 0, "went on\n"),
            (["echo a \\", "echo b"], 0, "a\nb\n"),
            (["echo a \\\n  b", "echo c"], 0, "a b\nc\n"),
            (["", "# nothing", "echo a # more", "echo b"], 0, "a\nb\n"),
            (["true &", "wait; echo b"], 0, "b\n"),
            (["(exit 3) & wait $!", "echo no"], 3, ""),
            (["cat <<END\na\nEND", "echo b"], 0, "a\nb\n"),
            (["for each in 1 2; do", "echo $each", "done"], 0, "1\n2\n"),
            (["f() {\necho f\n}", "f", "X=1", "echo $X"], 0, "f\n1\n"),
            (["trap 'echo bye' EXIT", "exit 3", "echo no"], 3, "bye\n"),
            (["echo $#", "exit 0", "echo no"], 0, "0\n"),
            (["nosuchcommand 2>/dev/null", "echo no"], 127, ""),
            (["echo hi!there"], 0, "hi!there\n"),
            ([], 0, ""),
        ],
        ids=lambda value: repr(value)[:60],
    )
    def test_of_every_shell(self, tmp_path: Path, shell: str, commands: list[str], code: int, log: str) -> None:
        assert ran(tmp_path / "job", *commands, shell=shell) == (code, log)

    @pytest.mark.parametrize(
        ("commands", "code", "log"),
        [
            (["set -euo pipefail\nfalse | true\necho went on", "echo next"], 1, ""),
            (["set -euo pipefail", "false | true", "echo next"], 1, ""),
            (["trap 'echo broke' ERR", "false", "echo next"], 1, "broke\n"),
            (["set -E; trap 'echo broke' ERR\nf() { false; }\nf", "echo next"], 1, "broke\nbroke\n"),
            (["alias hi='echo hello'", "hi"], 0, "hello\n"),
        ],
        ids=lambda value: repr(value)[:60],
    )
    def test_of_bash(self, tmp_path: Path, commands: list[str], code: int, log: str) -> None:
        assert ran(tmp_path / "job", *commands) == (code, log)

    def test_start_files_count_and_what_they_say_is_kept(self, tmp_path: Path) -> None:
        home = tmp_path / "home"
        home.mkdir()
        (home / ".bashrc").write_text(
            "case $- in *i*) ;; *) return ;; esac\nconda() { echo activated $2; }\nalias ll='echo listed'\necho oops >&2\n"
        )
        env = {**clean_environment(), "HOME": str(home)}
        assert ran(tmp_path / "job", "conda activate x", "ll", env=env) == (0, "oops\nactivated x\nlisted\n")

    def test_a_start_file_that_ends_the_shell_ends_the_job_with_its_words(self, tmp_path: Path) -> None:
        (tmp_path / ".bashrc").write_text("echo no licence >&2\nexit 9\n")
        code, log = ran(tmp_path / "job", "echo never", env={**clean_environment(), "HOME": str(tmp_path)})
        assert code == 9
        assert "no licence\n" in log
        assert "never" not in log

    def test_a_shell_that_is_no_posix_shell_gets_one_line(self) -> None:
        words, interactive = command_line(JobSpec("a1", ["a", "b"], {}, shell="/usr/bin/fish"))
        assert (words, interactive) == (["/usr/bin/fish", "-c", "a && b"], False)

    def test_words_are_run_without_a_shell(self, tmp_path: Path) -> None:
        assert ran(tmp_path / "job", argv=("/usr/bin/env", "FOO=a b", "printenv", "FOO")) == (0, "a b\n")
        assert ran(tmp_path / "two", argv=("/bin/bash", "-c", "echo $0; exit 3")) == (3, "/bin/bash\n")


SAVING = """\
import signal, sys, time
def save(*_):
    time.sleep(0.4)
    open("saved", "w").close()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
open("up", "w").close()
time.sleep(600)
"""
FORWARDING = """\
import signal, subprocess, sys
worker = subprocess.Popen([sys.executable, "train.py"], start_new_session=True)
signal.signal(signal.SIGTERM, lambda *_: worker.terminate())
sys.exit(worker.wait())
"""
TRAIN = f"{sys.executable} train.py"


def stopped(folder: Path, command: str, supervisor: str, **more: object) -> tuple[Ending, str]:
    """A job that is asked to stop as soon as its training is up: how it ended, and its log."""
    work = folder / "work"
    work.mkdir(parents=True)
    (work / "train.py").write_text(SAVING)
    (work / "torchrun.py").write_text(FORWARDING)

    def stop() -> None:
        while not (work / "up").exists() or not (folder / "pid").exists():
            time.sleep(0.01)
        os.kill(int((folder / "pid").read_text().split()[0]), signal.SIGTERM)

    asking = threading.Thread(target=stop)
    asking.start()
    try:
        ending = supervise(folder, spec(command, "echo never", **more), supervisor)
    finally:
        asking.join(60)
    return ending, (folder / "log").read_text()


def alive(number: str) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("shell", SHELLS)
class TestStop:
    @pytest.mark.parametrize("job_shell", ["/bin/bash", "/bin/sh"])
    @pytest.mark.parametrize(
        "command",
        [
            TRAIN,
            f"exec {TRAIN}",
            f"{TRAIN} | cat",
            f"({TRAIN}; true)",
            f"{TRAIN} & wait",
            f"set -m; {TRAIN} & wait",
            f"sh -c '{TRAIN}; true'",
            f"{TRAIN} || true",
            f"{sys.executable} torchrun.py",
        ],
        ids=lambda command: command.replace(sys.executable, "python"),
    )
    def test_a_training_saves_its_checkpoint(self, tmp_path: Path, shell: str, job_shell: str, command: str) -> None:
        ending, log = stopped(tmp_path / "job", command, shell, shell=job_shell)
        assert (tmp_path / "job/work/saved").exists()
        assert ending.cause == "stopped"
        assert "never" not in log

    def test_its_time_is_stop_duration_and_then_all_of_it_is_killed(self, tmp_path: Path, shell: str) -> None:
        stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('up', 'w').close(); time.sleep(600)"
        command = f'{sys.executable} -c "{stubborn}" & {sys.executable} torchrun.py & wait'
        ending, _ = stopped(tmp_path / "job", command.replace("train.py", "x"), shell, stop_duration=1)
        assert ending.cause == "stopped"
        left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout.split()
        assert [pid for pid in left if Path(f"/proc/{pid}/cwd").resolve().is_relative_to(tmp_path)] == []

    def test_who_is_overdue_saves_too(self, tmp_path: Path, shell: str) -> None:
        work = tmp_path / "job/work"
        work.mkdir(parents=True)
        (work / "train.py").write_text(SAVING)
        ending = supervise(tmp_path / "job", spec(f"{TRAIN}; true", max_duration=2), shell)
        assert ending.cause == "max_duration"
        assert (work / "saved").exists()

    def test_a_stop_that_comes_at_the_start_files_begins_nothing(self, tmp_path: Path, shell: str) -> None:
        (tmp_path / ".bashrc").write_text("sleep 600\n")
        env = {**clean_environment(), "HOME": str(tmp_path)}
        ending = supervise(tmp_path / "job", spec("echo begun", env=env, max_duration=1, stop_duration=20), shell)
        assert ending == Ending(143, "max_duration")
        assert (tmp_path / "job/log").read_bytes() == b""

    def test_a_kill_at_the_start_files_leaves_an_empty_log(self, tmp_path: Path, shell: str) -> None:
        (tmp_path / ".bashrc").write_text("trap '' TERM; sleep 600\n")
        env = {**clean_environment(), "HOME": str(tmp_path)}
        ending = supervise(tmp_path / "job", spec("echo begun", env=env, max_duration=1, stop_duration=1), shell)
        assert ending.cause == "max_duration"
        assert (tmp_path / "job/log").read_bytes() == b""

    def test_what_is_left_in_the_background_of_a_job_that_ended_by_itself_is_killed(self, tmp_path: Path, shell: str) -> None:
        assert supervise(tmp_path / "job", spec("sleep 300 &", "echo $! > number"), shell) == Ending(0)
        number = (tmp_path / "job/work/number").read_text().strip()
        assert not alive(number)


def test_the_words_of_a_job_are_what_its_folder_holds(tmp_path: Path) -> None:
    job_folder.write(tmp_path / "job", spec("echo a", shell="/bin/sh"))
    assert (tmp_path / "job/commands").read_text().startswith("set -- '/bin/sh' '-c'")
