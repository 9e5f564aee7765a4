"""What is reached of a run from here, and how its nodes reach each other, wherever they are."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from dstack_jupyter.client import Run
from dstack_jupyter.models.runs import Attachment
from tests.clouds.real import RealMachines
from tests.conftest import wait_until
from tests.contract.conftest import REAL
from tests.contract.subjects import SECONDS, Subject, mark
from tests.hosts.images import debian_like_image


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def attached(run: Run) -> Attachment:
    """How a run is reached, once it is."""
    wait_until(lambda: run.refresh().view.attachment is not None, SECONDS, f"a way to {run.name}")
    assert run.view.attachment is not None
    return run.view.attachment


def answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(f"{url}/index.html", timeout=5).read() == b"hello\n")
    except OSError:
        return False


def listens(port: int) -> bool:
    """Whether anybody takes a connection here: a listener whose job is gone takes it, and then drops it."""
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True


def test_a_port_of_a_job_is_here_while_it_runs(subject: Subject) -> None:
    port = free_port()
    run = subject.apply(f"echo hello > index.html; exec python3 -m http.server --bind 127.0.0.1 {port}", ports=[f"*:{port}"])
    forward = attached(run).forwards[0]
    wait_until(lambda: answers(forward.url), 30, "the job's answer")
    subject.ended(run.stop(abort=True))
    wait_until(lambda: not listens(forward.local_port), 10, "the port to be closed")
    assert run.refresh().view.attachment is None


def test_a_dev_environment_goes_on_until_it_is_stopped(subject: Subject) -> None:
    job = mark()
    run = subject.apply(type="dev-environment", init=["echo prepared > note", f"echo ready; : {job}"])
    subject.says(run, b"ready\n")
    assert [path.read_text() for path in run.pull("note", subject.folder / "pulled")] == ["prepared\n"]
    attached(run)
    assert (run.refresh().state, run.view.type) == ("running", "dev-environment")
    subject.ended(run.stop())
    assert (run.state, run.view.reason) == ("terminated", "stopped_by_user")
    subject.leaves_nothing(job)


def test_a_dev_environment_ends_when_nobody_is_there_and_not_before(subject: Subject) -> None:
    port, job = free_port(), mark()
    serves = f"echo hello > index.html; python3 -m http.server --bind 127.0.0.1 {port} >served 2>&1 & : {job}"
    run = subject.apply(type="dev-environment", init=[serves], ports=[f"*:{port}"], inactivity_duration="3s")
    if "somebody who is counted" not in subject.lacks:
        forward = attached(run).forwards[0]
        wait_until(lambda: answers(forward.url), 30, "its server")
        with socket.create_connection(("127.0.0.1", forward.local_port)):
            while_we_are_there = time.monotonic() + 6
            while time.monotonic() < while_we_are_there:
                assert not run.refresh().ended, run.view.message
                time.sleep(0.2)
    assert subject.ended(run).view.reason == "inactivity_duration_exceeded"
    subject.leaves_nothing(job)


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
    found = attached(run)
    assert found.link == "cursor://vscode-remote/ssh-remote+desk/workflow"
    assert found.ssh_config == f"Include {subject.client.home.ssh_config}"
    config = str(subject.client.home.ssh_config)
    ssh = ["ssh", "-F", config, "desk", "until [ -e /workflow/note ]; do sleep 0.1; done; cat /workflow/note"]
    assert subprocess.run(ssh, capture_output=True, text=True, timeout=60).stdout == "prepared\n"
    assert not (subject.client.home.root.parent / ".ssh" / "config").exists()
    assert subject.ended(run).view.reason == "inactivity_duration_exceeded"
    assert "desk" not in Path(config).read_text()


def test_each_node_knows_its_place_and_one_that_fails_takes_the_others_with_it(subject: Subject) -> None:
    told = 'echo "$DSTACK_NODE_RANK/$DSTACK_NODES_NUM $DSTACK_MASTER_NODE_IP" $DSTACK_NODES_IPS'
    if subject.refuses("nodes", told, nodes=2):
        return
    run = subject.ended(subject.apply(told, nodes=2))
    lines = [run.raw(rank).decode().splitlines()[-1].split() for rank in (0, 1)]
    assert [line[0] for line in lines] == ["0/2", "1/2"]
    master, first, second, *_ = lines[0][1:]
    assert lines[1][1:] == lines[0][1:]
    assert (master, len({first, second})) == (first, 2)
    assert (run.state, run.exit_code, len(run.view.attempts)) == ("done", 0, 2)
    job = mark()
    run = subject.ended(subject.apply(f"[ $DSTACK_NODE_RANK = 0 ] || exit 5; sleep 600; : {job}", nodes=2))
    assert (run.state, run.exit_code) == ("failed", 5)
    ends = [(each.job, each.state, each.reason) for each in run.view.attempts]
    assert sorted(ends) == [(0, "terminated", "terminated_by_server"), (1, "failed", "container_exited_with_error")]
    subject.leaves_nothing(job)


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
