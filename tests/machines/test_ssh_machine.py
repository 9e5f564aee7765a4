"""Hosts over SSH: keys, users, links that break, hosts that reboot, many jobs at once."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import asyncssh
import pytest

from dstack_jupyter.machines.base import JobReport
from dstack_jupyter.machines.ssh import host as host_module
from dstack_jupyter.machines.ssh.connection import Connections
from dstack_jupyter.machines.ssh.facts import parse_hello
from dstack_jupyter.machines.ssh.machine import SSHMachine
from dstack_jupyter.models.errors import ConfigurationError, Conflict, HostKeyChanged, StorageFull, Unreachable
from tests.hosts.hosts import Host, HostSet
from tests.machines.conftest import BUSYBOX, Desk, descriptors, ended, says, spec

pytestmark = [pytest.mark.machines, pytest.mark.timeout(180)]


@pytest.fixture
def host(three_hosts: HostSet) -> Host:
    return three_hosts[0]


async def test_the_first_contact_pins_the_key_and_an_impostor_gets_nothing(desk: Desk, host: Host) -> None:
    await desk.machine(host).hello()
    assert desk.pins.known == {f"{host.ip}:22": " ".join(host.host_key.split()[:2])}
    await desk.connections.close()
    host.change_host_key()
    try:
        with pytest.raises(HostKeyChanged, match="nothing was sent") as told:
            await desk.machine(host).hello()
        assert "fleets trust" in told.value.hint
        assert "Accepted" not in host.do("tail -n 3 /var/log/sshd.log")
    finally:
        host.restore_host_key()
    await desk.machine(host).hello()


async def test_a_login_that_fails_pins_nothing(desk: Desk, host: Host) -> None:
    with pytest.raises(Unreachable, match="refuses the key of nobody-here") as told:
        await desk.machine(host, user="nobody-here").hello()
    assert "authorized_keys" in told.value.hint
    assert desk.pins.known == {}


async def test_keys_that_cannot_be_used_are_named(desk: Desk, host: Host, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        await desk.machine(host, identity_file=str(tmp_path / "absent")).hello()
    loose = tmp_path / "loose"
    shutil.copy(desk.hosts.key, loose)
    loose.chmod(0o640)
    with pytest.raises(ConfigurationError, match="others can read") as told:
        await desk.machine(host, identity_file=str(loose)).hello()
    assert told.value.hint == f"chmod 600 {loose}"
    locked = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "canary-key-88", "-f", locked], check=True)
    with pytest.raises(ConfigurationError, match="cannot be used") as told:
        await desk.machine(host, identity_file=str(locked)).hello()
    assert "passphrase" in told.value.hint


async def test_neither_agent_nor_ssh_config_of_the_user_is_asked(
    desk: Desk, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    shutil.copy(desk.hosts.key, home / ".ssh/id_ed25519")
    (home / ".ssh/config").write_text(f"Host *\n  HostName 127.0.0.9\n  User root\n  IdentityFile {desk.hosts.key}\n")
    monkeypatch.setenv("HOME", str(home))
    asked = asyncio.Event()

    def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        writer.close()

    agent = await asyncio.start_unix_server(answer, str(tmp_path / "agent"))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    other = tmp_path / "other"
    key = asyncssh.generate_private_key("ssh-ed25519")
    other.touch(0o600)
    other.write_bytes(key.export_private_key("openssh"))
    try:
        with pytest.raises(Unreachable, match="refuses the key"):
            await desk.machine(host, identity_file=str(other)).hello()
        assert not asked.is_set()
        await desk.machine(host).hello()  # the key that was named goes where it was told to
        assert not asked.is_set()
    finally:
        agent.close()


async def test_a_host_behind_another_is_pinned_on_its_own(desk: Desk, three_hosts: HostSet) -> None:
    door, inside = three_hosts[0], three_hosts[1]
    machine = desk.machine(inside, proxy=desk.address(door))
    assert (await machine.hello()).hostname == inside.name
    assert set(desk.pins.known) == {f"{door.ip}:22", f"{inside.ip}:22 via {door.ip}:22"}
    await machine.launch(spec("hostname"))
    assert (await ended(machine)).data == f"{inside.name}\n".encode()
    door.cut()
    try:
        with pytest.raises(Unreachable):
            await asyncio.wait_for(machine.look("a1", 0, 10), 60)
    finally:
        door.join()
    assert (await looked(machine)).data == f"{inside.name}\n".encode()


async def looked(machine: SSHMachine) -> JobReport:
    """A look at a host that is on its way back: asked again while it is unreachable, as the engine does."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await machine.look("a1", 0, 100)
            except Unreachable:
                await asyncio.sleep(0.1)


async def test_a_user_without_rights_runs_processes_and_is_told_about_docker(desk: Desk, host: Host) -> None:
    host.add_user("ada")
    try:
        machine = desk.machine(host, user="ada")
        hello = await machine.hello()
        assert (hello.user, hello.root) == ("ada", "/home/ada/.dstack_jupyter")
        assert "sudo usermod -aG docker ada" in hello.docker_problem
        assert "ada has no sudo: an administrator must" in hello.docker_problem
        await machine.launch(spec("id -un; pwd"))
        assert (await ended(machine)).data == b"ada\n/home/ada/.dstack_jupyter/jobs/a1/work\n"
        assert host.do("stat -c %a /home/ada/.dstack_jupyter").strip() == "700"
        with pytest.raises(ConfigurationError, match="may not use Docker"):
            await machine.launch(spec("true", image=BUSYBOX, attempt_id="a2"))
        host.do("usermod -aG docker ada")
        # What was missing is asked for again; rights come with a new login.
        await machine.host.drop()
        assert (await machine.look_around()).docker_problem == ""
        await machine.launch(spec("echo in", image=BUSYBOX, attempt_id="a2"))
        assert (await ended(machine, "a2")).data == b"in\n"
    finally:
        host.run("docker rm -f dj-a2")
        host.remove_user("ada")


async def test_thirty_jobs_share_one_connection(desk: Desk, host: Host) -> None:
    """sshd allows ten sessions on a connection, and ten connections that log in at once. (F59 asyncssh#55)"""
    machine = desk.machine(host)
    names = [f"m{number}" for number in range(30)]
    await machine.hello()
    before = descriptors()
    await asyncio.gather(*(machine.launch(spec(f"echo {name}; sleep 0.2; echo end", attempt_id=name)) for name in names))
    reports = await asyncio.gather(*(ended(machine, name, 60) for name in names))
    assert [report.data for report in reports] == [f"{name}\nend\n".encode() for name in names]
    assert host.do("grep -c Accepted /var/log/sshd.log; true")
    assert descriptors() <= before + 2


async def test_a_cut_link_loses_no_byte_and_restarts_nothing(desk: Desk, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """F58 asyncssh#321."""
    monkeypatch.setattr(host_module, "ANSWER", 2.0)
    machine = desk.machine(host)
    counter = "n=0; while [ $n -lt 100 ]; do n=$((n+1)); echo $n; sleep 0.05; done"
    await machine.launch(spec(counter))
    await says(machine, b"3\n")
    host.cut()
    try:
        with pytest.raises(Unreachable):
            await machine.look("a1", 0, 10)
    finally:
        host.join()

    await looked(machine)
    report = await ended(machine)
    assert report.data == b"".join(b"%d\n" % number for number in range(1, 101))
    assert report.ending is not None


async def test_a_killed_sshd_is_told_at_once_and_the_watcher_comes_back(desk: Desk, host: Host) -> None:
    machine = desk.machine(host)
    await machine.launch(spec("echo up; until [ -e gate ]; do sleep 0.05; done; echo end"))
    await says(machine, b"up")
    news = asyncio.Event()
    machine.watch("a1", news.set)
    news.clear()
    host.end_sshd()
    await asyncio.wait_for(news.wait(), 10)
    host.start_sshd()
    host.do("touch ~/.dstack_jupyter/jobs/a1/work/gate")
    assert (await ended(machine)).data == b"up\nend\n"


async def test_a_reboot_is_told_apart_from_a_killed_supervisor(desk: Desk, host: Host) -> None:
    machine = desk.machine(host)
    await machine.launch(spec("echo up; sleep 600"))
    await says(machine, b"up")
    await machine.launch(spec("echo up; sleep 600", attempt_id="a2"))
    await says(machine, b"up", "a2")
    host.do("kill -KILL $(cut -d' ' -f1 ~/.dstack_jupyter/jobs/a2/pid)")
    killed = await ended(machine, "a2")
    assert (killed.interrupted, "killed" in killed.lost) == (False, True)
    host.reboot()

    report = await looked(machine)
    assert report.interrupted
    assert "booted" in report.lost
    assert report.data == b"up\n"


async def test_a_full_disk_is_a_wait_and_not_a_failure(desk: Desk, host: Host) -> None:
    machine = desk.machine(host)
    await machine.hello()
    host.do(
        "mount -t tmpfs -o size=64k tmpfs ~/.dstack_jupyter/jobs && head -c 60000 /dev/zero > ~/.dstack_jupyter/jobs/full; true"
    )
    await machine.host.drop()  # serve.sh stands in the folder that was covered
    try:
        with pytest.raises(StorageFull, match="disk of"):
            await machine.launch(spec("true", env={"X": "y" * 20000}))
        host.do("rm ~/.dstack_jupyter/jobs/full")
        await machine.launch(spec("echo room"))
        assert (await ended(machine)).data == b"room\n"
    finally:
        await machine.host.drop()
        host.do("umount -l ~/.dstack_jupyter/jobs")


async def never(_: str) -> bool:
    return False


async def test_a_host_belongs_to_one_installation(desk: Desk, host: Host, tmp_path: Path) -> None:
    mine = desk.machine(host)
    connections = Connections(desk.pins, tmp_path / "k")
    theirs = SSHMachine(connections, desk.address(host), "others", "lab")
    try:
        await mine.claim("i1", never)
        await mine.claim("i1", never)
        with pytest.raises(Conflict, match=r"belongs to fleet desk of installation tests \(root\)"):
            await theirs.claim("i9", never)
        await theirs.unclaim("i1")  # what is not ours is not released
        with pytest.raises(Conflict):
            await theirs.claim("i9", never)
        with pytest.raises(Conflict, match=r"belongs to fleet desk\n"):
            await mine.claim("i2", never)
        await mine.unclaim("i1")
        with pytest.raises(Conflict, match="given back"):
            await mine.claim("i1", never)
        await theirs.claim("i9", never)
        await mine.unclaim("i1")  # a late one: the host is another's by now
        with pytest.raises(Conflict, match="of installation others"):
            await mine.claim("i2", never)
        await theirs.unclaim("i9")
    finally:
        host.run("rm -rf /var/tmp/dstack_jupyter.claim ~/.dstack_jupyter/released")
        await theirs.close()
        await connections.close()


async def test_what_an_instance_of_ours_left_that_is_gone_is_taken_away(desk: Desk, host: Host) -> None:
    """The host did not answer when it was given back, say."""
    mine = desk.machine(host)
    asked = []

    async def gone(instance: str) -> bool:
        asked.append(instance)
        return True

    try:
        await mine.claim("i1", never)
        await mine.claim("i2", gone)
        assert asked == ["i1"]
        assert host.do("cat /var/tmp/dstack_jupyter.claim") == "tests desk root i2\n"
        await mine.unclaim("i2")
    finally:
        host.run("rm -rf /var/tmp/dstack_jupyter.claim ~/.dstack_jupyter/released")


async def test_what_greets_with_a_menu_is_no_host(desk: Desk, host: Host) -> None:
    host.add_user("menu")
    host.do("usermod --shell /usr/local/bin/menu menu")
    host.add_tool("menu", "#!/bin/sh\necho 'Welcome! 1) reboot 2) logout'\n")
    try:
        with pytest.raises(Unreachable, match="does not answer like a Linux host"):
            await desk.machine(host, user="menu").hello()
    finally:
        host.do("rm /usr/local/bin/menu")
        host.remove_user("menu")


async def test_a_shell_that_greets_in_its_profile_does_no_harm(desk: Desk, host: Host) -> None:
    host.add_user("chatty")
    host.write("/home/chatty/.bashrc", "echo 'good morning'\n")
    host.do("chown chatty: /home/chatty/.bashrc")
    try:
        machine = desk.machine(host, user="chatty")
        assert (await machine.hello()).user == "chatty"
        await machine.launch(spec("echo fine"))
        assert (await ended(machine)).data == b"fine\n"
        await machine.launch(spec("echo 1 > result", attempt_id="a2"))
        await ended(machine, "a2")
        tar = b"".join([chunk async for chunk in machine.pull("a2", "result")])
        assert subprocess.run(["tar", "-xO"], input=tar, capture_output=True, check=True).stdout == b"1\n"
    finally:
        host.remove_user("chatty")


async def test_tools_of_gpus_are_asked_and_a_broken_one_is_noted(desk: Desk, host: Host) -> None:
    host.add_tool("nvidia-smi", "#!/bin/sh\necho '0, NVIDIA H100 80GB HBM3, 81559'\necho '1, NVIDIA H100 80GB HBM3, 81559'\n")
    host.add_tool("hl-smi", "#!/bin/sh\necho 'driver is not loaded'; exit 3\n")
    try:
        facts = (await desk.machine(host).hello()).facts
        assert [(gpu.vendor, gpu.name, gpu.memory_gb) for gpu in facts.gpus] == [("nvidia", "H100", 80)] * 2
        assert facts.notes == ("hl-smi failed with exit code 3: driver is not loaded",)
        host.add_tool("nvidia-smi", "#!/bin/sh\necho 30; echo 70\n")
        assert await desk.machine(host).utilization("nvidia", (0, 1)) == [30, 70]
        assert await desk.machine(host).utilization("amd", (0,)) == []
    finally:
        host.do("rm /usr/local/bin/nvidia-smi /usr/local/bin/hl-smi")


async def test_what_hello_says_is_true(desk: Desk, host: Host) -> None:
    hello = await desk.machine(host).hello()
    assert hello.facts.cpus == os.cpu_count()
    assert hello.boot == host.boot_id
    assert f"{host.ip}/24" in hello.addresses
    assert (hello.problems, hello.naps, hello.dd, hello.user) == ((), True, True, "root")


def test_an_answer_without_sense_is_refused() -> None:
    for text in ("", "Welcome\n", "root=/r\ncpus=many\n"):
        with pytest.raises(Unreachable):
            parse_hello(text)


async def test_no_secret_is_in_a_command_line(desk: Desk, host: Host) -> None:
    machine = desk.machine(host)
    await machine.launch(spec("echo up; sleep 600", env={"TOKEN": "canary-argv-1717"}))
    await says(machine, b"up")
    shown = host.do("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' '\\n'; true")
    assert "canary-argv-1717" not in shown
    assert "sleep" in shown
    here = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "canary-argv-1717" not in here
    await machine.end("a1", abort=True)
    await ended(machine)


async def test_a_host_that_is_given_back_again_and_again_keeps_no_session(desk: Desk, host: Host) -> None:
    """sshd allows ten sessions on a connection (MaxSessions); each machine opens two."""
    for _ in range(8):
        machine = desk.machine(host)
        await machine.hello()
        await machine.close()
    await desk.machine(host).hello()
