"""What every run can rely on, wherever it is."""

from __future__ import annotations

import base64
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from dstack_jupyter.client import Run
from dstack_jupyter.models.errors import Conflict
from dstack_jupyter.models.runs import LogFrame
from tests.clouds.real import RealMachines
from tests.conftest import wait_until
from tests.contract.conftest import KINDS
from tests.contract.subjects import SECONDS, Subject
from tests.hosts.images import debian_like_image

ANY_BYTES = "".join(f"\\{number:03o}" for number in range(256))
REAL = pytest.mark.parametrize("subject", [kind for kind in KINDS if "rented" not in str(kind)], indirect=True)
"""For what a machine that is a folder has not: Docker, and an address of its own."""


def test_a_task_has_what_it_was_sent_and_says_what_it_did(subject: Subject) -> None:
    value = 'it\'s "ä"\n$(x) \\ \x7f'
    (subject.folder / "pkg").mkdir()
    (subject.folder / "pkg/part.txt").write_text("in a folder\n")
    (subject.folder / "data.txt").write_text("in a file\n")
    run = subject.ended(
        subject.apply(
            "cat ../data.txt ../pkg/part.txt",
            'printf %s "$X"',
            'echo "$DSTACK_RUN_NAME $DSTACK_NODES_NUM $DSTACK_NODE_RANK" >&2',
            f"printf '{ANY_BYTES}'",
            "exit 7",
            name="all-of-it",
            env={"X": value},
            files=["data.txt", "pkg"],
            working_dir="deep",
        )
    )
    log = run.raw()
    assert log == f"in a file\nin a folder\n{value}all-of-it 1 0\n".encode() + bytes(range(256))
    assert (run.state, run.exit_code, run.view.attempts[-1].reason) == ("failed", 7, "container_exited_with_error")
    assert run.logs().text.startswith("in a file\n")


@REAL
def test_a_container_is_asked_for_by_its_image(subject: Subject) -> None:
    if subject.refuses("containers", "true", image="local/busybox"):
        return
    run = subject.ended(subject.apply("echo in; cat /etc/passwd; exit 3", image="local/busybox"))
    assert (run.state, run.exit_code, run.raw()) == ("failed", 3, b"in\nroot:x:0:0:root:/root:/bin/sh\n")


def test_a_name_is_one_run_at_a_time_and_a_stop_leaves_it_its_last_words(subject: Subject) -> None:
    run = subject.apply(
        "trap 'echo bye; exit 0' TERM; echo result > out.txt; echo up; while :; do sleep 0.1 2>/dev/null; done", name="one"
    )
    with pytest.raises(Conflict, match="'one' is active"):
        subject.apply("true", name="one")
    subject.says(run, b"up\n")
    assert [path.read_text() for path in run.pull("out.txt", subject.folder / "pulled")] == ["result\n"]
    subject.ended(run.stop())
    assert (run.state, run.view.reason) == ("terminated", "stopped_by_user")
    log = run.raw()
    assert (log[:3], log[-4:]) == (b"up\n", b"bye\n")
    again = subject.apply("true", name="one")
    assert again.id != run.id
    subject.ended(again.stop(abort=True))


def test_an_abort_ends_what_does_not_heed_a_stop(subject: Subject) -> None:
    run = subject.apply("trap '' TERM; echo up; while :; do sleep 0.1; done")
    subject.says(run, b"up\n")
    run.stop()
    run.stop(abort=True)
    assert (subject.ended(run).state, run.view.reason) == ("terminated", "aborted_by_user")


def test_max_duration_ends_a_run(subject: Subject) -> None:
    run = subject.ended(subject.apply("echo up; sleep 600", max_duration=1))
    assert (run.state, run.view.reason) == ("terminated", "max_duration_exceeded")
    assert run.raw().startswith(b"up\n")


def test_followers_come_and_go_and_miss_no_byte(subject: Subject) -> None:
    run = subject.apply("seq 500; sleep 1; seq 501 1000; sleep 1; seq 1001 1500")
    first = _log(run, until=b"\n500\n")
    rest = _log(run, offset=len(first))
    whole = b"".join(b"%d\n" % number for number in range(1, 1501))
    assert first + rest == whole
    assert _log(run) == run.raw() == whole


def _log(run: Run, *, offset: int = 0, until: bytes = b"no such text") -> bytes:
    """Follow a log from a byte to its end, or go away when ``until`` was seen."""
    log = b""
    for frame in run.stream(offset=offset, timeout=SECONDS):
        if isinstance(frame, LogFrame):
            assert frame.offset == offset + len(log)
            log += base64.b64decode(frame.data)
            if until in log:
                break
    return log


def test_an_error_is_tried_again_where_that_was_asked_for(subject: Subject) -> None:
    fails = subject.apply("echo tried; exit 3", retry={"on_events": ["error"], "duration": "1h"})
    once = subject.apply("exit 4", retry={"on_events": ["interruption"], "duration": "1h"})
    assert (subject.ended(once).state, once.exit_code, len(once.view.attempts)) == ("failed", 4, 1)
    wait_until(lambda: len(fails.refresh().view.attempts) == 2, SECONDS, "the second attempt")
    assert (fails.view.attempts[0].exit_code, fails.ended) == (3, False)
    subject.ended(fails.stop(abort=True))


def test_a_machine_that_dies_is_an_interruption_and_the_run_goes_on_elsewhere(subject: Subject) -> None:
    run = subject.apply("echo up; sleep 600", retry={"on_events": ["interruption"], "duration": "1h"})
    subject.says(run, b"up\n")
    subject.dies(run.refresh())
    if "another machine" in subject.lacks:
        assert (subject.ended(run).state, run.view.attempts[-1].reason) == ("failed", "executor_error")
        assert subject.lacks["another machine"] in run.view.message
        return
    wait_until(lambda: len(run.refresh().view.attempts) == 2, SECONDS, "the second attempt")
    assert run.view.attempts[0].reason == "interrupted_by_no_capacity"
    subject.says(run, b"up\n")
    subject.ended(run.stop(abort=True))


def test_a_port_of_a_job_is_here_while_it_runs(subject: Subject) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = subject.apply(f"echo hello > index.html; exec python3 -m http.server --bind 127.0.0.1 {port}", ports=[f"*:{port}"])
    wait_until(lambda: run.refresh().view.attachment is not None, SECONDS, "the port")
    assert run.view.attachment is not None
    url = run.view.attachment.forwards[0].url

    def answers() -> bool:
        try:
            return bool(urllib.request.urlopen(f"{url}/index.html", timeout=5).read() == b"hello\n")
        except OSError:
            return False

    wait_until(answers, 30, "the job's answer")
    subject.ended(run.stop(abort=True))
    wait_until(lambda: not answers(), 10, "the port to be closed")


@REAL
def test_a_dev_environment_is_logged_in_to_and_ends_when_nobody_is_there(
    subject: Subject, request: pytest.FixtureRequest
) -> None:
    wanted = {"type": "dev-environment", "name": "desk", "ide": "cursor", "image": "local/debian"}
    if subject.refuses("containers", **wanted):
        return
    if subject.kind == "droplet":
        real: RealMachines = request.getfixturevalue("real")
        debian_like_image(real.images)
    run = subject.apply(init=["echo prepared > note"], inactivity_duration="5s", **wanted)
    wait_until(lambda: run.refresh().view.attachment is not None, SECONDS, "the dev environment")
    found = run.view.attachment
    assert found is not None
    assert found.link == "cursor://vscode-remote/ssh-remote+desk/workflow"
    assert found.ssh_config == f"Include {subject.client.home.ssh_config}"
    config = str(subject.client.home.ssh_config)
    ssh = ["ssh", "-F", config, "desk", "until [ -e /workflow/note ]; do sleep 0.1; done; cat /workflow/note"]
    assert subprocess.run(ssh, capture_output=True, text=True, timeout=60).stdout == "prepared\n"
    assert not (subject.client.home.root.parent / ".ssh" / "config").exists()
    assert subject.ended(run).view.reason == "inactivity_duration_exceeded"
    assert "desk" not in Path(config).read_text()


SERVES = "cd $(mktemp -d); echo from the master > told; python3 -m http.server --bind $DSTACK_MASTER_NODE_IP {port} & serving=$!"
ASKS = "until curl -fsS http://$DSTACK_MASTER_NODE_IP:{port}/told 2>/dev/null; do sleep 0.1; done; echo heard"


@REAL
def test_nodes_know_each_other_and_meet(subject: Subject) -> None:
    port = 29400
    script = (
        'echo "$DSTACK_NODE_RANK of $DSTACK_NODES_NUM; $DSTACK_NODES_IPS" | tr "\\n" " "; echo; '
        f"if [ $DSTACK_NODE_RANK = 0 ]; then {SERVES.format(port=port)}; "
        "until ssh node-1 test -e /tmp/heard 2>/dev/null; do sleep 0.1; done; ssh $DSTACK_RUN_NAME-1 'echo met; rm /tmp/heard'; "
        f"kill $serving; else {ASKS.format(port=port)}; touch /tmp/heard; while [ -e /tmp/heard ]; do sleep 0.1; done; fi"
    )
    if subject.refuses("nodes", script, nodes=2):
        return
    run = subject.ended(subject.apply(script, nodes=2, name="pair"))
    master, worker = run.raw(0).decode(), run.raw(1).decode()
    assert run.state == "done", (run.view.message, master, worker)
    first, second = master.splitlines()[0], worker.splitlines()[0]
    assert first.removeprefix("0 of 2; ").split() == second.removeprefix("1 of 2; ").split()
    assert len(set(first.removeprefix("0 of 2; ").split())) == 2
    assert master.endswith("met\n")
    assert worker.endswith("from the master\nheard\n")
