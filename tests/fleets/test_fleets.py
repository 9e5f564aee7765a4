"""SSH fleets on real hosts: what a fleet is told, what it finds out, whom it belongs to."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from dstack_jupyter import api
from dstack_jupyter.client import Client, connect
from dstack_jupyter.models import endpoint
from dstack_jupyter.models.errors import Conflict, NotFound
from dstack_jupyter.models.fleets_view import FleetRequest
from dstack_jupyter.models.home import Home
from tests.conftest import alive, wait_until
from tests.fleets.conftest import Apply, submit
from tests.hosts.hosts import HostSet

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]


def test_hosts_are_reached_and_known(fleet: Apply, three_hosts: HostSet) -> None:
    view = fleet()
    assert [(host.hostname, host.state, host.message) for host in view.hosts] == [(host.ip, "idle", "") for host in three_hosts]
    assert all(host.docker and host.cpus >= 1 and host.memory_gb > 0 and host.disk_gb > 0 for host in view.hosts)
    assert all(host.host_key.startswith("SHA256:") for host in view.hosts)
    frame = api.fleets()
    assert list(frame["host"]) == [host.ip for host in three_hosts]


def test_every_form_of_a_host(client: Client, fleet: Apply, three_hosts: HostSet) -> None:
    one, two, three = three_hosts
    two.add_user("ada", docker_group=True)
    try:
        jump = {"hostname": one.ip, "user": "root", "identity_file": str(three_hosts.key)}
        hosts = [
            one.ip,
            {"hostname": two.ip, "user": "ada", "port": 22, "identity_file": str(three_hosts.key), "internal_ip": two.ip},
            {"hostname": three.ip, "proxy_jump": jump, "blocks": 2},
        ]
        view = fleet(hosts, ssh={"network": f"{three_hosts.net}.0/24"})
        assert [host.message for host in view.hosts] == ["", "", ""]
        assert [host.blocks for host in view.hosts] == [1, 1, 2]
        client.delete_fleet("desk")
        wait_until(lambda: not client.fleets(), 30)
    finally:
        two.remove_user("ada")


def test_each_host_in_trouble_says_why_and_the_rest_work(
    client: Client, fleet: Apply, three_hosts: HostSet, tmp_path: Path
) -> None:
    one, two, three = three_hosts
    strange = tmp_path / "strange"
    shutil.copy(three_hosts.key, strange)
    strange.chmod(0o644)
    two.stop_docker()
    try:
        hosts = [
            one.ip,
            two.ip,
            {"hostname": three.ip, "identity_file": str(strange)},
            {"hostname": f"{three_hosts.net}.250"},
        ]
        view = fleet(hosts)
        told = {host.hostname: host.message for host in view.hosts}
        assert told[one.ip] == told[two.ip] == ""
        assert "others can read the private key" in told[three.ip]
        assert "chmod 600" in told[three.ip]
        assert "cannot be reached" in told[f"{three_hosts.net}.250"]
        without = next(host for host in view.hosts if host.hostname == two.ip)
        assert any("Docker is installed but does not run" in note for note in without.notes)
        assert submit(client, "echo works", instance_types=[two.ip]).wait(30).logs().text == "works\n"
        refused = submit(client, "true", image="local/busybox", instance_types=[two.ip]).wait(30)
        assert "cannot run Docker" in refused.view.message
    finally:
        two.start_docker()


def test_gpus_without_their_toolkit_are_noted(fleet: Apply, three_hosts: HostSet) -> None:
    host = three_hosts[0]
    host.add_tool("nvidia-smi", "#!/bin/sh\necho '0, NVIDIA L4, 23034'\n")
    try:
        (found,) = fleet([host.ip]).hosts
        assert (found.gpu_name, found.gpu_count, found.message) == ("L4", 1, "")
        assert any("NVIDIA container toolkit is missing" in note for note in found.notes)
    finally:
        host.run("rm /usr/local/bin/nvidia-smi")


def test_our_own_key_is_made_and_named_where_a_host_refuses_it(
    client: Client, home: Home, fleet: Apply, three_hosts: HostSet
) -> None:
    view = fleet([three_hosts[0].ip], ssh={"identity_file": None})
    assert "refuses the key of root" in view.hosts[0].message
    assert "authorized_keys" in view.hosts[0].message
    public = (home.keys / "id_ed25519.pub").read_text()
    three_hosts[0].do("cat >> /root/.ssh/authorized_keys", stdin=public)
    view = fleet([three_hosts[0].ip], ssh={"identity_file": None, "port": 22})
    wait_until(lambda: not client.fleet("desk").hosts[0].message, 60, "the host to take our key")


def test_an_impostor_gets_nothing_until_the_user_trusts_it(client: Client, fleet: Apply, three_hosts: HostSet) -> None:
    host = three_hosts[0]
    fleet([host.ip])
    client.delete_fleet("desk")
    wait_until(lambda: not client.fleets(), 30)
    host.change_host_key()
    try:
        view = fleet([host.ip])
        assert "another host key than the one that is pinned: nothing was sent" in view.hosts[0].message
        client.trust("desk", host.ip)
        wait_until(lambda: not client.fleet("desk").hosts[0].message, 30, "the host to be trusted")
    finally:
        host.restore_host_key()
        client.trust("desk", host.ip)


def test_a_second_installation_is_refused_with_the_owner_s_name(
    home: Home, client: Client, fleet: Apply, three_hosts: HostSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet([three_hosts[0].ip])
    other = Home(tmp_path / "other")
    second = Client(other)
    monkeypatch.setenv("DSTACK_JUPYTER_HOME", str(other.root))
    try:
        config = {"user": "root", "identity_file": str(three_hosts.key), "hosts": [three_hosts[0].ip]}
        second.apply_fleet(FleetRequest(configuration={"type": "fleet", "name": "mine", "ssh_config": config}))
        wait_until(lambda: second.fleet("mine").hosts[0].message, 30)
        assert f"belongs to fleet desk of installation {home.installation()}" in second.fleet("mine").hosts[0].message
        client.delete_fleet("desk")
        wait_until(lambda: not second.fleet("mine").hosts[0].message, 60, "the host to be ours")
        second.delete_fleet("mine")
        wait_until(lambda: not second.fleets(), 30)
    finally:
        os.kill(second.info().pid, signal.SIGTERM)


def test_a_fleet_in_use_is_neither_deleted_nor_changed(client: Client, fleet: Apply, three_hosts: HostSet) -> None:
    fleet([three_hosts[0].ip])
    run = submit(client, "sleep 60")
    wait_until(lambda: run.refresh().state == "running")
    with pytest.raises(Conflict, match="runs"):
        client.delete_fleet("desk")
    with pytest.raises(Conflict, match="runs a job"):
        fleet([{"hostname": three_hosts[0].ip, "blocks": "auto"}])
    run.stop(abort=True).wait(30)
    client.delete_fleet("desk")
    wait_until(lambda: not client.fleets(), 30)
    assert three_hosts[0].run("cat /var/tmp/dstack_jupyter.claim")[0] != 0
    with pytest.raises(NotFound, match="no fleet 'desk'"):
        client.fleet("desk")


def test_offers_show_hosts_and_whether_they_are_busy(client: Client, fleet: Apply, three_hosts: HostSet) -> None:
    fleet([three_hosts[0].ip, three_hosts[1].ip])

    def shown() -> dict[str, str]:
        frame = api.offers(backends=("ssh",))
        return dict(zip(frame["instance_type"], frame["availability"], strict=True))

    wait_until(lambda: shown() == {three_hosts[0].ip: "idle", three_hosts[1].ip: "idle"})
    run = submit(client, "sleep 60", instance_types=[three_hosts[0].ip])
    wait_until(lambda: shown() == {three_hosts[0].ip: "busy", three_hosts[1].ip: "idle"})
    run.stop(abort=True).wait(30)
    wait_until(lambda: shown()[three_hosts[0].ip] == "idle")


def test_blocks_share_a_host_and_no_more(client: Client, fleet: Apply, three_hosts: HostSet) -> None:
    host = three_hosts[0]
    host.add_tool("nproc", "#!/bin/sh\necho 4\n")
    try:
        fleet([host.ip], blocks=4)
        runs = [submit(client, "sleep 60") for _ in range(3)]
        wait_until(lambda: all(run.refresh().state == "running" for run in runs), 30)
        pair = submit(client, "sleep 60", resources={"cpu": "2.."})
        assert "busy" in pair.wait(30).view.message
        fourth = submit(client, "sleep 60")
        wait_until(lambda: all(run.refresh().state == "running" for run in [*runs, fourth]), 30)
        assert client.fleet("desk").hosts[0].busy_blocks == 4
    finally:
        for run in client.runs():
            run.stop(abort=True).wait(30)
        host.do("rm /usr/local/bin/nproc")


def test_a_killed_engine_loses_nothing_of_what_runs_on_hosts(
    home: Home, client: Client, fleet: Apply, three_hosts: HostSet
) -> None:
    fleet([three_hosts[0].ip])
    run = submit(client, "echo start; n=0; while [ $n -lt 60 ]; do n=$((n+1)); echo $n; sleep 0.1; done; echo end")
    wait_until(lambda: run.refresh().view.attempts[-1].log_size > 20)
    found = endpoint.read(home)
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)
    wait_until(lambda: not alive(found.pid))
    again = connect(home).run(run.id).wait(60)
    assert again.state == "done"
    assert again.raw() == b"start\n" + b"".join(b"%d\n" % number for number in range(1, 61)) + b"end\n"


def test_a_reboot_is_an_interruption_and_a_cut_link_is_not(client: Client, fleet: Apply, three_hosts: HostSet) -> None:
    host = three_hosts[2]
    fleet([host.ip])
    run = submit(client, "echo up; sleep 600")
    wait_until(lambda: run.refresh().view.attempts[-1].log_size > 0)
    host.cut()
    try:
        wait_until(lambda: any(each.type == "unreachable" for each in run.refresh().view.conditions), 90, "the condition")
        assert run.state == "running"
    finally:
        host.join()
    wait_until(lambda: not run.refresh().view.conditions, 90, "the host to be back")
    assert run.state == "running"
    host.reboot()
    assert run.wait(90).state == "failed"
    assert "booted" in run.view.message
    assert run.view.attempts[-1].reason == "interrupted_by_no_capacity"
    host.start_docker()
