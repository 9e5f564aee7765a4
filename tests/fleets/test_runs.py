"""Runs on hosts, beyond what `tests/contract` asks of every place: containers, nodes, waiting for a host."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from dstack_jupyter.client import Client
from dstack_jupyter.models.home import Home
from tests.conftest import wait_until
from tests.fleets.conftest import Apply, submit
from tests.hosts.fixtures import BUSYBOX, DEBIAN
from tests.hosts.hosts import HostSet
from tests.hosts.registry import Registry

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]


def test_a_process_and_a_container_give_log_exit_code_and_files(client: Client, fleet: Apply) -> None:
    fleet()
    for more in ({}, {"image": BUSYBOX}):
        run = submit(client, 'echo "$A"; echo result > out.txt; exit 3', env={"A": "it's\nme"}, **more).wait(60)
        assert (run.state, run.exit_code, run.logs().text) == ("failed", 3, "it's\nme\n")
        tmp = Path(client.home.root) / f"pulled-{len(more)}"
        assert [path.read_text() for path in run.pull("out.txt", tmp)] == ["result\n"]


def test_two_nodes_in_containers_reach_each_other_by_name_and_ssh(client: Client, fleet: Apply) -> None:
    fleet()
    script = (
        "echo $DSTACK_NODE_RANK of $DSTACK_NODES_NUM; cat $DSTACK_MPI_HOSTFILE; "
        "if [ $DSTACK_NODE_RANK = 0 ]; then until ssh node-1 true 2>/dev/null; do sleep 0.1; done; "
        "ssh $DSTACK_RUN_NAME-1 'echo over there'; ssh node-1 touch /tmp/told; fi; "
        "[ $DSTACK_NODE_RANK = 0 ] || until [ -e /tmp/told ]; do sleep 0.1; done; rm -f /tmp/told"
    )
    run = submit(client, script, nodes=2, name="pair", image=DEBIAN).wait(60)
    master, worker = run.raw(0).decode(), run.raw(1).decode()
    assert run.state == "done", (run.view.message, master, worker)
    addresses = [line.split()[0] for line in master.splitlines() if "slots=" in line]
    assert sorted({attempt.host for attempt in run.view.attempts}) == sorted(addresses)
    assert "over there" in master
    assert worker.startswith("1 of 2")


def test_a_failed_master_ends_its_workers(client: Client, fleet: Apply) -> None:
    fleet()
    run = submit(client, "[ $DSTACK_NODE_RANK = 0 ] && exit 7; sleep 600", nodes=2).wait(60)
    assert (run.state, run.exit_code) == ("failed", 7), run.view.message
    assert {attempt.reason for attempt in run.view.attempts} == {"container_exited_with_error", "terminated_by_server"}


def test_stop_criteria_and_startup_order(client: Client, fleet: Apply) -> None:
    fleet()
    wait = "[ $DSTACK_NODE_RANK = 0 ] || sleep 600"
    run = submit(client, wait, nodes=2, stop_criteria="master-done", startup_order="workers-first").wait(60)
    master, worker = sorted(run.view.attempts, key=lambda attempt: attempt.job)
    assert (run.state, master.state, worker.reason) == ("done", "done", "terminated_by_server"), run.view.message
    assert worker.started_at is not None and master.started_at is not None
    assert worker.started_at <= master.started_at


def test_too_few_hosts_for_the_nodes_book_none(client: Client, fleet: Apply, three_hosts: HostSet) -> None:
    fleet([three_hosts[0].ip, three_hosts[1].ip])
    busy = submit(client, "sleep 60")
    wait_until(lambda: busy.refresh().state == "running")
    run = submit(client, "true", nodes=2).wait(30)
    assert "2 free hosts of one fleet are needed, 1 of 2 are free" in run.view.message
    assert sum(host.busy_blocks for host in client.fleet("desk").hosts) == 1


def test_a_run_that_retries_gets_the_host_as_soon_as_it_is_free_the_higher_priority_first(
    client: Client, fleet: Apply, three_hosts: HostSet
) -> None:
    fleet([three_hosts[0].ip])
    first = submit(client, "sleep 600")
    wait_until(lambda: first.refresh().state == "running")
    low = submit(client, "sleep 600", retry={"on_events": ["no-capacity"], "duration": "1h"}, name="low")
    high = submit(client, "echo mine", retry={"on_events": ["no-capacity"], "duration": "1h"}, name="high", priority=9)
    wait_until(lambda: low.refresh().state == high.refresh().state == "pending")
    assert "busy" in high.view.message
    first.stop(abort=True)
    assert high.wait(10).state == "done"  # far sooner than the first delay of 15 s
    wait_until(lambda: low.refresh().state == "running", 20)


def test_a_registry_password_is_used_once_and_kept_nowhere(
    client: Client, home: Home, fleet: Apply, three_hosts: HostSet, private_registry: Registry
) -> None:
    """F60 skypilot#8902."""
    fleet([three_hosts[0].ip])
    image = f"{private_registry.address}/team/busybox"
    auth = {"username": "team", "password": "**********"}
    wrong = submit(client, "true", image=image, registry_auth=auth, registry_password="canary-wrong-5512").wait(60)
    assert "registry_auth" in wrong.view.message
    assert "registry_auth" in submit(client, "true", image=image).wait(60).view.message
    missing = submit(
        client, "true", image=f"{private_registry.address}/team/nothing", registry_auth=auth, registry_password="open sesame"
    ).wait(60)
    assert "there is no such image" in missing.view.message
    right = submit(client, "echo pulled", image=image, registry_auth=auth, registry_password="open sesame").wait(60)
    assert right.raw() == b"pulled\n", right.view.message
    for path in home.root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"canary-wrong-5512" not in data, path
            assert b"open sesame" not in data, path
    code, found = three_hosts[0].run("grep -rl 'open sesame' /root/.dstack_jupyter /var/log 2>/dev/null")
    assert (code, found) != (0, found)


def test_ports_of_a_container_are_here_while_it_runs(client: Client, fleet: Apply) -> None:
    fleet()
    run = submit(
        client, "mkdir www; echo hello > www/index.html; httpd -p 8080 -h www; sleep 600", image=BUSYBOX, ports=["*:8080"]
    )
    wait_until(lambda: run.refresh().view.attachment is not None, 30)
    assert run.view.attachment is not None
    url = run.view.attachment.forwards[0].url

    def answers() -> bool:
        try:
            return bool(urllib.request.urlopen(url, timeout=5).read() == b"hello\n")
        except OSError:
            return False

    wait_until(answers, 20)
    run.stop(abort=True).wait(30)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=5)


def test_an_overdue_job_ends_on_its_host_while_the_engine_is_away(
    client: Client, home: Home, fleet: Apply, three_hosts: HostSet
) -> None:
    import os
    import signal

    from dstack_jupyter.models import endpoint

    host = three_hosts[0]
    fleet([host.ip])
    run = submit(client, "echo up; sleep 600", max_duration=3, image=BUSYBOX)
    wait_until(lambda: run.refresh().view.attempts[-1].log_size > 0)
    found = endpoint.read(home)
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)
    folder = f"/root/.dstack_jupyter/jobs/{run.view.attempts[-1].id}"
    wait_until(lambda: host.run(f"test -e {folder}/exit")[0] == 0, 20, "the timer on the host")
    assert run.wait(60).view.reason == "max_duration_exceeded"


def test_an_event_log_tells_the_story(client: Client, fleet: Apply) -> None:
    fleet()
    run = submit(client, "true").wait(30)
    actions = [event.action for event in client.events(run=run.id)]
    assert actions[0] == "submitted"
    assert actions[-1] == "done"
    assert json.loads(run.view.model_dump_json())["backend"] == "ssh"
