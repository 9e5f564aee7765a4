"""Containers on real hosts: what Docker does to a job, and what the body of a container says."""

from __future__ import annotations

import asyncio
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dstack_jupyter.machines.base import Archive, Container, Ending
from dstack_jupyter.machines.docker.api import registry_of, split_image
from dstack_jupyter.machines.docker.launcher import create_body
from dstack_jupyter.models.errors import Unreachable
from tests.hosts.hosts import Host, HostSet
from tests.machines.conftest import BUSYBOX, DEBIAN, Desk, ended, says, spec

pytestmark = [pytest.mark.machines, pytest.mark.timeout(180)]


@pytest.fixture
def host(three_hosts: HostSet) -> Host:
    return three_hosts[1]


async def test_a_container_that_is_killed_is_lost_and_says_so(desk: Desk, host: Host) -> None:
    machine = desk.machine(host)
    await machine.launch(spec("echo up; sleep 600", image=BUSYBOX))
    await says(machine, b"up")
    host.do("docker kill dj-a1")
    report = await ended(machine)
    assert "ended from outside (exit code 137)" in report.lost
    assert (report.data, report.interrupted) == (b"up\n", False)


async def test_a_container_out_of_memory_says_that_it_was(desk: Desk, host: Host) -> None:
    machine = desk.machine(host)
    hog = "echo up; head -c 400000000 /dev/zero | tail -c 300000000"
    await machine.launch(spec(hog, image=BUSYBOX, memory=48 << 20))
    report = await ended(machine, seconds=60)
    # The kernel picks the hog or the supervisor: both are told, none runs on.
    assert "out of memory" in report.lost or (report.ending is not None and report.ending.exit_code == 137)


async def test_a_stopped_dockerd_ends_the_job_with_its_whole_log(desk: Desk, host: Host) -> None:
    machine = desk.machine(host)
    await machine.launch(spec("trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.1; done", image=BUSYBOX))
    await says(machine, b"up")
    host.stop_docker()
    try:
        report = await ended(machine)
        assert report.ending == Ending(9, "stopped")
        assert report.data.endswith(b"bye\n")
        with pytest.raises(Unreachable, match="Docker"):
            await machine.finish("a1")  # the container is there still: asked again
    finally:
        host.start_docker()
    await machine.finish("a1")
    assert host.do("docker ps -aq") == ""


async def test_a_host_s_reboot_is_an_interruption_of_its_containers(desk: Desk, host: Host) -> None:
    machine = desk.machine(host)
    await machine.launch(spec("echo up; sleep 600", image=BUSYBOX))
    await says(machine, b"up")
    host.reboot()
    async with asyncio.timeout(60):
        while True:
            try:
                report = await machine.look("a1", 0, 100)
                break
            except Unreachable:
                await asyncio.sleep(0.1)
    assert (report.interrupted, report.data) == (True, b"up\n")


async def test_a_missing_image_and_a_missing_registry_are_told(desk: Desk, host: Host) -> None:
    machine = desk.machine(host)
    await machine.launch(spec("true", image=f"{desk.hosts.bridge_ip}:9/no/image"))
    report = await ended(machine)
    assert "refused" in report.refused
    await machine.launch(spec("true", image="NOT an image", attempt_id="a2"))
    assert "invalid reference format" in (await ended(machine, "a2")).refused


async def test_an_image_without_a_shell_is_told(desk: Desk, host: Host) -> None:
    host.do("tar -cf - -C /etc hostname | docker import - local/empty")
    try:
        machine = desk.machine(host)
        await machine.launch(spec("true", image="local/empty"))
        assert "the image needs /bin/sh" in (await ended(machine)).refused
    finally:
        host.do("docker rm -f dj-a1; docker rmi local/empty")


async def test_the_image_s_own_command_and_an_entrypoint(desk: Desk, host: Host) -> None:
    build = "docker create --name base local/busybox true && docker export base | docker import"
    host.do(f"""{build} --change 'ENTRYPOINT ["/bin/echo", "it is"]' --change 'CMD ["its own"]' - local/own; docker rm base""")
    try:
        machine = desk.machine(host)
        await machine.launch(spec(image="local/own"))
        assert (await ended(machine)).data == b"it is its own\n"
        host.do("tar -cf - -C /etc hostname | docker import - local/bare")
        await machine.launch(spec(image="local/bare", attempt_id="a2"))
        assert "says nothing to run" in (await ended(machine, "a2")).refused
        await machine.launch(spec("one", "two words", image=BUSYBOX, attempt_id="a3", entrypoint="/bin/echo 'the  words'"))
        assert (await ended(machine, "a3")).data == b"the  words one two words\n"
        await machine.launch(spec("echo said; exit 3", image=BUSYBOX, attempt_id="a4", entrypoint="/bin/sh -c"))
        report = await ended(machine, "a4")
        assert (report.data, report.ending) == (b"said\n", Ending(3))
    finally:
        host.run("docker rm -f dj-a1 dj-a2; docker rmi local/own local/bare")


async def test_the_image_s_own_folder_is_where_its_own_command_runs(desk: Desk, host: Host) -> None:
    build = "docker create --name base local/busybox true && docker export base | docker import"
    host.do(f"""{build} --change 'WORKDIR /etc' --change 'CMD ["pwd"]' - local/where; docker rm base""")
    try:
        machine = desk.machine(host)
        for number, (given, said) in enumerate([("", b"/etc\n"), ("/tmp/made", b"/tmp/made\n"), ("sub", b"/workflow/sub\n")]):
            await machine.launch(spec(image="local/where", attempt_id=f"a{number}", working_dir=given))
            assert (await ended(machine, f"a{number}")).data == said
        await machine.launch(spec("pwd", image="local/where", attempt_id="a9"))
        assert (await ended(machine, "a9")).data == b"/workflow\n"
    finally:
        host.run("docker rm -f dj-a0 dj-a1 dj-a2 dj-a9; docker rmi local/where")


async def test_an_image_for_another_architecture_is_told(desk: Desk, host: Host) -> None:
    other = {"x86_64": "arm64", "aarch64": "amd64"}[platform.machine()]
    mine = {"arm64": "amd64", "amd64": "arm64"}[other]
    host.do("mkdir -p /tmp/root/bin && printf nothing > /tmp/root/bin/sh && chmod 755 /tmp/root/bin/sh")
    host.do("tar -cf - -C /tmp/root . | docker import - local/other && docker save local/other | tar -xf - -C /tmp/root")
    # What a registry would have sent: the same image with another word in its configuration.
    host.do(f"cd /tmp/root && sed -i s/{mine}/{other}/ *.json && tar -cf - *.json */layer.tar | docker load")
    try:
        machine = desk.machine(host)
        await machine.launch(spec("true", image="local/other"))
        assert f"is for {other}, and the host is" in (await ended(machine)).refused
    finally:
        host.run("docker rm -f dj-a1; docker rmi local/other; rm -r /tmp/root")


async def test_a_container_that_is_removed_is_lost_at_once(desk: Desk, host: Host) -> None:
    machine = desk.machine(host)
    await machine.launch(spec("echo up; sleep 600", image=BUSYBOX))
    await says(machine, b"up")
    host.do("docker rm -f dj-a1; rm -f /root/.dstack_jupyter/jobs/a1/pid")
    assert (await ended(machine)).lost == "somebody removed the job's container while the job ran"


async def test_files_are_the_user_s_in_a_container_and_never_the_host_s(desk: Desk, host: Host, tmp_path: Path) -> None:
    (tmp_path / "id_rsa").write_text("sent")
    (tmp_path / "id_rsa").chmod(0o600)
    archive = tmp_path / "code.tar"
    subprocess.run(["tar", "-C", tmp_path, "-cf", archive, "id_rsa"], check=True)
    host.do("mkdir -p /opt/keys; echo mine > /opt/keys/id_rsa; chmod 600 /opt/keys/id_rsa")
    machine = desk.machine(host)
    archives = [Archive(archive, "."), Archive(archive, "/opt/keys")]
    await machine.launch(spec("cat id_rsa /opt/keys/id_rsa; stat -c %a:%U id_rsa", image=DEBIAN, archives=archives))
    assert (await ended(machine)).data == b"sentsent600:root\n"
    await machine.launch(
        spec("cat id_rsa; stat -c %a:%U id_rsa", image=DEBIAN, user="app", archives=archives[:1], attempt_id="a2")
    )
    assert (await ended(machine, "a2")).data == b"sent600:app\n"
    await machine.launch(spec("true", image=DEBIAN, user="app", archives=archives, attempt_id="a3"))
    report = await ended(machine, "a3")
    assert report.ending == Ending(75)
    assert b"/opt/keys" in report.data
    assert host.do("cat /opt/keys/id_rsa; stat -c %a /opt/keys/id_rsa") == "mine\n600\n"


async def test_a_container_s_user_writes_and_its_folder_can_be_deleted(desk: Desk, host: Host) -> None:
    host.add_user("ada", docker_group=True)
    try:
        machine = desk.machine(host, user="ada")
        await machine.launch(spec("id -u; mkdir -p d; echo 1 > d/file; chmod 700 d", image=DEBIAN, user="app"))
        assert (await ended(machine)).data == b"1000\n"
        await machine.launch(spec("id -u; mkdir -m 700 d; echo 1 > d/file", image=DEBIAN, attempt_id="a2"))
        assert (await ended(machine, "a2")).data == b"0\n"
        for attempt in ("a1", "a2"):
            await machine.finish(attempt)
            await machine.remove(attempt)
        assert host.do("ls -A /home/ada/.dstack_jupyter/jobs") == ""
        assert host.do("docker ps -aq") == ""
    finally:
        host.remove_user("ada")


async def test_what_a_container_is_given(desk: Desk, host: Host) -> None:
    host.do("mkdir -p /srv/data && echo kept > /srv/data/file")
    try:
        machine = desk.machine(host)
        job = spec(
            "cat /data/file; df -Pm /dev/shm | tail -n 1 | awk '{print $2}'; cat /sys/fs/cgroup/memory.max "
            "2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes; grep there /etc/hosts; echo $NVIDIA_VISIBLE_DEVICES",
            image=BUSYBOX,
            volumes=(("/srv/data", "/data"),),
            shm_size=8 << 20,
            memory=64 << 20,
            hosts=(("there", "192.0.2.7"),),
        )
        await machine.launch(job)
        report = await ended(machine)
        assert report.ending == Ending(0)
        assert report.data.decode().split() == ["kept", "8", str(64 << 20), "192.0.2.7", "there", "void"]
    finally:
        host.do("rm -r /srv/data")


async def test_ports_are_of_the_loopback_only(desk: Desk, host: Host) -> None:
    machine = desk.machine(host)
    await machine.launch(spec("mkdir w; echo hi > w/index.html; echo up; httpd -f -p 80 -h w", image=BUSYBOX, ports=(80,)))
    await says(machine, b"up")
    port = (await machine.ports("a1"))[80]
    assert port != 80
    assert f"127.0.0.1:{port}->80/tcp" in host.do("docker ps --format '{{.Ports}}'")
    async with asyncio.timeout(20):
        while True:
            reader, writer = await machine.connect(port)
            writer.write(b"GET /index.html HTTP/1.0\r\n\r\n")
            if (await reader.read()).endswith(b"hi\n"):
                break
            writer.close()
    writer.close()
    await machine.end("a1", abort=True)
    await ended(machine)
    with pytest.raises(Unreachable, match="nothing answers"):
        async with asyncio.timeout(20):
            while True:  # Docker takes the port away a moment after the job's last word
                (await machine.connect(port))[1].close()


async def test_an_engine_that_died_between_create_and_start_is_taken_over(desk: Desk, host: Host) -> None:
    """F50 dstack#2998."""
    first, second = desk.machine(host), desk.machine(host)
    job = spec("echo once", image=BUSYBOX)
    container = job.container
    assert container is not None
    hello = await first.hello()
    # As far as a launch gets that is killed between its two calls.
    await first._send_folder(job, hello, "folder", "/run/dj", "/workflow", {})
    async with first._docker._docker(hello) as docker:
        await docker.call("POST", "/containers/create?name=dj-a1", create_body(job, container, f"{hello.root}/jobs/a1", "tests"))
    assert not (await second.look("a1", 0, 10)).started
    await second.launch(job)
    assert (await ended(second)).data == b"once\n"


BASE: dict[str, Any] = {"image": "x", "gpus": (1, 3)}


@pytest.mark.parametrize(
    ("vendor", "expected", "env"),
    [
        ("nvidia", {"DeviceRequests": [{"Driver": "nvidia", "DeviceIDs": ["1", "3"], "Capabilities": [["gpu"]]}]}, []),
        (
            "amd",
            {
                "Devices": [
                    {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"} for path in ("/dev/kfd", "/dev/dri")
                ],
                "GroupAdd": ["video"],
                "SecurityOpt": ["seccomp=unconfined"],
            },
            ["HIP_VISIBLE_DEVICES=1,3", "ROCR_VISIBLE_DEVICES=1,3"],
        ),
        ("intel", {"Runtime": "habana", "CapAdd": ["SYS_NICE"]}, ["HABANA_VISIBLE_DEVICES=1,3"]),
        (
            "tenstorrent",
            {
                "Devices": [
                    {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}
                    for path in ("/dev/tenstorrent/1", "/dev/tenstorrent/3")
                ]
            },
            [],
        ),
    ],
)
def test_gpus_of_each_vendor_are_passed_and_no_others(vendor: str, expected: dict[str, Any], env: list[str]) -> None:
    body = create_body(spec("true"), Container(**BASE, gpu_vendor=vendor), "/f", "i")
    assert {name: body["HostConfig"].get(name) for name in expected} == expected
    assert body["Env"] == ["DJ_INSIDE=1", *env]


def test_a_container_without_gpus_sees_none() -> None:
    body = create_body(spec("true"), Container(image="x"), "/f", "i")
    assert body["Env"] == ["DJ_INSIDE=1", "NVIDIA_VISIBLE_DEVICES=void"]
    assert body["HostConfig"]["LogConfig"] == {"Type": "none"}
    assert not {"DeviceRequests", "Devices", "Runtime", "PortBindings", "Memory"} & set(body["HostConfig"])


@pytest.mark.parametrize(
    ("image", "name", "tag", "registry"),
    [
        ("ubuntu", "ubuntu", "latest", "https://index.docker.io/v1/"),
        ("a/b:1", "a/b", "1", "https://index.docker.io/v1/"),
        ("ghcr.io/a/b", "ghcr.io/a/b", "latest", "ghcr.io"),
        ("localhost:5000/a:v2", "localhost:5000/a", "v2", "localhost:5000"),
        ("r.io:1/a@sha256:00ff", "r.io:1/a", "sha256:00ff", "r.io:1"),
    ],
)
def test_an_image_s_name_is_taken_apart_as_docker_does(image: str, name: str, tag: str, registry: str) -> None:
    assert split_image(image) == (name, tag)
    assert registry_of(image) == registry
