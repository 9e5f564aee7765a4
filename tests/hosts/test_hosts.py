"""The test hosts themselves: what the other tests build on must be as real as it looks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from tests.hosts import hosts as hosts_module
from tests.hosts.fixtures import BUSYBOX, DEBIAN, image_folder, need, private_registry, three_hosts
from tests.hosts.hosts import Host, HostSet, missing_tools, sweep, wait_for
from tests.hosts.registry import Registry

__all__ = ["image_folder", "private_registry", "three_hosts"]
pytestmark = [pytest.mark.machines, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostSet]:
    need(*missing_tools())
    with HostSet(tmp_path_factory.mktemp("pair"), count=2) as hosts:
        yield hosts


def connect(hosts: HostSet, host: Host) -> asyncssh.misc._ACMWrapper[asyncssh.SSHClientConnection]:
    return asyncssh.connect(
        host.ip,
        username=host.user,
        client_keys=[str(hosts.key)],
        known_hosts=str(hosts.known_hosts),
        config=None,
        agent_path=None,
        connect_timeout=5,
        login_timeout=5,
    )


def test_each_host_is_a_machine_of_its_own(three_hosts: HostSet) -> None:
    for host in three_hosts:
        code, output = three_hosts.ssh(host, "hostname; hostname -I; cat /proc/sys/kernel/random/boot_id; id -un; ls -A ~")
        assert code == 0, output
        name, addresses, boot_id, user, *files = output.split("\n")
        assert (name, boot_id, user) == (host.name, host.boot_id, "root")
        assert host.ip in addresses.split()
        assert [file for file in files if file] == [".ssh"]
        host.do("echo $(hostname) > /etc/mine; touch /root/mine")
    assert len({host.boot_id for host in three_hosts}) == len({host.host_key for host in three_hosts}) == 3
    assert [host.do("cat /etc/mine").strip() for host in three_hosts] == ["h1", "h2", "h3"]
    assert not os.path.exists("/etc/mine")
    assert not os.path.exists("/root/mine")
    for host in three_hosts:
        host.do("rm /etc/mine /root/mine")


def test_no_route_leads_out(pair: HostSet) -> None:
    assert "default" not in pair[0].do("ip route")
    assert f"blackhole {pair.net}.0/24" in subprocess.run(["ip", "route"], capture_output=True, text=True).stdout
    assert pair[0].run(f"timeout 5 bash -c '</dev/tcp/{pair[1].ip}/22'")[0] == 0
    code, output = pair[0].run("timeout 5 bash -c '</dev/tcp/192.0.2.1/22'")
    assert "unreachable" in output
    assert code != 0


async def test_a_cut_connection_hangs_and_goes_on(pair: HostSet) -> None:
    host = pair[0]
    async with connect(pair, host) as connection:
        process = await connection.create_process("cat")
        host.cut()
        try:
            process.stdin.write("said in the dark\n")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(process.stdout.readline(), 0.5)
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(connect_now(pair, host), 1)
            assert time.monotonic() - began > 0.9, "silent, not refused"
        finally:
            host.join()
        assert await asyncio.wait_for(process.stdout.readline(), 10) == "said in the dark\n"
    assert pair.ssh(host, "true") == (0, "")


async def test_a_frozen_sshd_takes_connections_and_says_nothing(pair: HostSet) -> None:
    host = pair[1]
    host.stop_sshd()
    try:
        code, output = pair.ssh(host, "true", timeout=1)
        assert code == 255
        assert "timed out" in output.lower()
    finally:
        host.continue_sshd()
    assert pair.ssh(host, "true") == (0, "")


def test_a_reboot_changes_the_boot_id_ends_all_and_keeps_the_disk(pair: HostSet) -> None:
    host, before = pair[0], pair[0].boot_id
    host.do("touch /root/kept /var/tmp/kept /tmp/gone /run/gone; setsid sleep 900 & echo $! > /root/pid")
    assert host.processes("sleep")
    host.reboot()
    assert host.processes("sleep") == []
    assert pair.ssh(host, "cat /proc/sys/kernel/random/boot_id") == (0, host.boot_id + "\n")
    assert host.boot_id != before
    assert host.run("ls /root/kept /var/tmp/kept")[0] == 0
    assert host.run("ls /tmp/gone || ls /run/gone")[0] != 0
    host.reboot(wipe=True)
    assert host.run("ls /root/kept")[0] != 0


async def test_a_power_cut_is_not_told_to_anybody(pair: HostSet) -> None:
    host = pair[0]
    async with connect(pair, host) as connection:
        process = await connection.create_process("cat")
        host.cut()
        host.power_off()
        host.power_on()
        with contextlib.suppress(OSError, asyncssh.Error):  # whichever of the two sides speaks first
            process.stdin.write("are you there?\n")
        await asyncio.wait_for(connection.wait_closed(), 10)
        assert process.exit_status is None
    assert pair.ssh(host, "true") == (0, "")


async def test_an_impostor_is_seen(pair: HostSet) -> None:
    host, first = pair[1], pair[1].host_key
    assert host.change_host_key() != first
    try:
        code, output = pair.ssh(host, "true")
        assert code == 255
        assert "HOST IDENTIFICATION HAS CHANGED" in output
        with pytest.raises(asyncssh.HostKeyNotVerifiable):
            await connect_now(pair, host)
    finally:
        assert host.restore_host_key() == first
    assert pair.ssh(host, "true") == (0, "")


def test_users_with_and_without_rights(three_hosts: HostSet) -> None:
    host, other = three_hosts[0], three_hosts[1]
    host.add_user("plain")
    host.add_user("boss", sudo=True)
    host.add_user("whale", docker_group=True)
    try:
        assert three_hosts.ssh(host, "id -un; pwd", user="plain") == (0, "plain\n/home/plain\n")
        assert three_hosts.ssh(host, "sudo -n id -un", user="boss") == (0, "root\n")
        assert "password is required" in three_hosts.ssh(host, "sudo -n id -un", user="plain")[1]
        assert three_hosts.ssh(host, f"docker run --rm --pull never {BUSYBOX} echo hi", user="whale") == (0, "hi\n")
        assert "permission denied" in three_hosts.ssh(host, "docker ps", user="plain")[1]
        assert three_hosts.ssh(other, "true", user="plain")[0] == 255
    finally:
        for name in ("plain", "boss", "whale"):
            host.remove_user(name)
    assert three_hosts.ssh(host, "true", user="plain")[0] == 255


def test_tools_come_and_go_on_one_host(pair: HostSet) -> None:
    pair[0].add_tool("nvidia-smi", "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559'\n")
    assert pair.ssh(pair[0], "nvidia-smi --query-gpu=name") == (0, "NVIDIA H100 80GB HBM3, 81559\n")
    assert pair.ssh(pair[1], "nvidia-smi")[0] == 127
    pair[0].hide("/usr/local/bin/nvidia-smi")
    assert pair.ssh(pair[0], "nvidia-smi")[0] == 127
    pair[0].show("/usr/local/bin/nvidia-smi")
    assert pair.ssh(pair[0], "nvidia-smi")[0] == 0


def test_containers_of_both_images(three_hosts: HostSet) -> None:
    for host in three_hosts:
        assert three_hosts.ssh(host, f"docker run --rm --pull never {BUSYBOX} sh -c 'echo hi; exit 7'") == (7, "hi\n")
    script = "ps -o comm= -p $$; id -un app; getent passwd root | cut -d: -f1; echo 7 | awk '{print $1*6}'"
    code, output = three_hosts.ssh(three_hosts[1], f"docker run --rm --pull never {DEBIAN} bash -c {shlex.quote(script)}")
    assert (code, output.split()) == (0, ["bash", "app", "root", "42"]), output
    server = (
        "ssh-keygen -A >/dev/null; /usr/sbin/sshd -p 2222; ssh-keygen -q -t ed25519 -N '' -f /root/k; mkdir -m 700 /root/.ssh"
    )
    client = (
        'cp /root/k.pub /root/.ssh/authorized_keys; echo "[localhost]:2222 $(cat /etc/ssh/ssh_host_ed25519_key.pub)" '
        "> /root/.ssh/known_hosts; ssh -p 2222 -i /root/k localhost echo from inside"
    )
    code, output = three_hosts[2].docker("run", "--rm", "--pull", "never", DEBIAN, "bash", "-c", f"{server}; {client}")
    assert code == 0
    assert "from inside" in output


def test_dockerd_ends_and_comes_back(three_hosts: HostSet, private_registry: Registry) -> None:
    """The registry is filled before: a host that goes takes its link, and the others notice late where the bridge is then."""
    host = three_hosts[2]
    host.do(f"docker run --pull never --detach --name one {BUSYBOX} sleep 900")
    host.stop_docker()
    assert "Cannot connect" in host.run("docker ps")[1]
    host.start_docker()
    assert host.do("docker ps --all --format '{{.Names}} {{.State}}'").strip() == "one exited"
    host.do("docker start one")
    host.reboot()
    assert host.do("docker ps --all --format '{{.Names}} {{.State}}'").strip() == "one exited"
    host.do("docker rm one")
    assert host.run("docker image inspect " + BUSYBOX)[0] == 0


def test_a_registry_behaves_like_the_real_thing(three_hosts: HostSet, private_registry: Registry) -> None:
    host, name = three_hosts[1], f"{private_registry.address}/team/busybox"
    login = "docker --config /tmp/{0} login --username team --password-stdin " + private_registry.address
    assert "no basic auth credentials" in host.run(f"docker --config /tmp/none pull {name}")[1]
    code, output = host.run(login.format("wrong"), stdin="wrong")
    assert code != 0
    assert "401 Unauthorized" in output
    host.do(login.format("right"), stdin=private_registry.password)
    code, output = host.run(f"docker --config /tmp/right pull {private_registry.address}/team/missing")
    assert code != 0
    assert "manifest unknown" in output or "not found" in output
    host.do(f"docker --config /tmp/right pull {name}")
    assert host.do(f"docker run --rm {name} echo pulled") == "pulled\n"
    host.do(f"docker rmi {name}; rm -rf /tmp/right /tmp/wrong")
    private_registry.stop()
    try:
        assert "connection refused" in host.run(f"docker pull {name}")[1]
    finally:
        private_registry.start()


def test_twenty_hosts_come_up_together(tmp_path: Path) -> None:
    need(*missing_tools())
    began = time.monotonic()
    with HostSet(tmp_path, count=20) as hosts:
        assert time.monotonic() - began < 6
        assert {host.do("hostname").strip() for host in hosts} == {f"h{number}" for number in range(1, 21)}


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.hosts.hosts import HostSet
with HostSet(Path(sys.argv[1]), count=2) as hosts:
    print(hosts.slot, *[host.pid for host in hosts], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_nothing_behind(tmp_path: Path) -> None:
    need(*missing_tools())
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, cwd=root, timeout=60)
    slot, *pids = done.stdout.split()
    assert len(pids) == 2
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}/root/etc") for pid in pids), 10, "the hosts to end with their test")
    sweep()
    assert not [name for name in os.listdir("/sys/class/net") if name.startswith(f"djh{slot}")]
    assert f"10.78.{slot}." not in subprocess.run(["ip", "route"], capture_output=True, text=True).stdout
    assert str(hosts_module.STATE / slot) not in Path("/proc/mounts").read_text()
    assert not (hosts_module.STATE / f"{slot}.lock").exists()


async def connect_now(hosts: HostSet, host: Host) -> None:
    async with connect(hosts, host):
        pass
