"""Real machines behind a face: system containers that boot systemd and run the real cloud-init on a create call's user-data.

Each has an address of its own in a network that leads nowhere else, another in a private network of the machines, its own sshd,
its own dockerd. Their Docker daemon, networks and state belong to one test process and go with it. Needs root; see ``image.py``
for what they boot.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest

from tests.clouds.core import Machine
from tests.clouds.image import RECIPE, image
from tests.hosts.fixtures import need
from tests.hosts.hosts import HostError, wait_for
from tests.hosts.images import busybox_image

CAPABILITIES = (
    *("AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER"),
    *("FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE"),
    *("NET_BROADCAST", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT"),
    *("SYS_NICE", "SYS_PTRACE", "SYS_RAWIO", "SYS_TTY_CONFIG"),
)
"""One by one, for a root that lacks SYS_RESOURCE may not give them all."""
TOOLS = {
    "dockerd": "docker.io",
    "docker": "docker.io",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "busybox": "busybox-static",
}
STATE = Path("/run/dstack-jupyter-clouds")
THERE = "/root"
"""The home of who logs in to a machine."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAME = f"local/instance:{RECIPE}"
KEEPER = r"""
dockerd "$@" &
read -r _
docker ps -aq | xargs -r docker rm -f >/dev/null
docker network rm cloud private
kill $! && wait $!
grep -o " $0/[^ ]*" /proc/mounts | sort -r | xargs -r umount -l
rm -rf "$0"
"""
"""Runs the daemon until the end of a pipe that only the test process holds, so that no machine outlives a killed test run."""


LOADS = f"""\
for tar in /var/lib/images/*.tar; do
    docker import -c 'CMD ["/bin/sh"]' -c 'ENV PATH={PATH}' "$tar" "local/$(basename "$tar" .tar)"
done
"""
"""Run on a machine as a part of its Docker's start: what a registry would give is there from then on."""


def missing_tools() -> list[str]:
    """What this machine lacks: package names, and `root` for a user without the right."""
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool, path=PATH) is None})
    return missing if os.geteuid() == 0 else ["root", *missing]


class RealMachines:
    """``core.Backing``. A context: it starts a Docker daemon of its own and ends it with every machine.

    ``images`` holds tars of file systems: the Docker of a machine that boots has X.tar as the image ``local/X``.
    """

    def __init__(self, images: Path) -> None:
        self.images = images
        self._net = ""
        self._folder = Path(tempfile.mkdtemp(prefix="dj-cloud-"))
        self._socket = self._folder / "docker.sock"
        self._env = {**os.environ, "DOCKER_HOST": f"unix://{self._socket}"}
        self._booting: dict[int, threading.Thread] = {}
        self._faults: dict[int, Exception] = {}
        self._keeper: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    # The cloud's side.

    def begin(self, machine: Machine) -> None:
        """Boots in the background, as at a vendor: the create call does not wait for it."""
        thread = threading.Thread(target=self._boot, args=(machine,), name=f"boot-{machine.name}")
        self._booting[machine.id] = thread
        thread.start()

    def look(self, machine: Machine, now: float) -> None:
        if self._booting[machine.id].is_alive() or machine.status == "ending":
            return
        if machine.id in self._faults:
            raise self._faults[machine.id]
        found = self._inspect(machine)
        machine.status = "running" if found["State"]["Running"] else "stopped"
        networks = found["NetworkSettings"]["Networks"]
        machine.address = networks["cloud"]["IPAddress"] or machine.address  # a stopped one keeps its own at a vendor
        machine.internal = networks["private"]["IPAddress"] or machine.internal

    def start(self, machine: Machine) -> None:
        self._docker("start", self._name(machine))

    def end(self, machine: Machine) -> None:
        self._booting.pop(machine.id).join(120)
        self._docker("rm", "-f", self._name(machine))
        shutil.rmtree(self._seed(machine), ignore_errors=True)

    # What a test does to a machine itself.

    def inside(self, machine: Machine, *command: str, stdin: Path | None = None) -> str:
        """Run a command on the machine, past its sshd."""
        return self._docker("exec", *(("-i",) if stdin else ()), self._name(machine), *command, stdin=stdin)

    def on_disk(self, machine: Machine, path: str) -> str:
        """A file of a machine that is off."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            self._docker("cp", f"{self._name(machine)}:{path}", folder)
            return (Path(folder) / Path(path).name).read_text()

    def console(self, machine: Machine) -> str:
        """What cloud-init wrote: for a test that failed."""
        with contextlib.suppress(HostError):
            return self.inside(machine, "tail", "-n", "60", "/var/log/cloud-init-output.log")
        return self._docker("logs", self._name(machine))

    def power_off(self, machine: Machine) -> None:
        """As a vendor does it to a spot machine: nothing on it is asked."""
        self._docker("kill", self._name(machine))

    @contextlib.contextmanager
    def we_moved(self) -> Iterator[str]:
        """This machine speaks to them from a new address and nobody has its old one: as a laptop that changed network.

        What was connected gets no answer any more, and is not told. Gives the new address.
        """
        (network,) = json.loads(self._docker("network", "inspect", "cloud"))
        bridge, was, now = f"br-{network['Id'][:12]}", f"{self._net}.1", f"{self._net}.250"
        self._address(bridge, was, now)
        try:
            yield now
        finally:
            self._address(bridge, now, was)

    def _address(self, bridge: str, was: str, now: str) -> None:
        for words in (("del", f"{was}/24"), ("add", f"{now}/24")):
            subprocess.run(["ip", "addr", *words, "dev", bridge], check=True, env={**os.environ, "PATH": PATH}, timeout=20)

    # Docker.

    def _name(self, machine: Machine) -> str:
        return f"m{machine.id}"

    def _seed(self, machine: Machine) -> Path:
        return self._folder / "seed" / str(machine.id)

    def _boot(self, machine: Machine) -> None:
        try:
            seed = self._seed(machine)
            seed.mkdir(parents=True)
            (seed / "user-data").write_text(machine.user_data)
            (seed / "meta-data").write_text(f"instance-id: i-{machine.id}\nlocal-hostname: {machine.name}\n")
            self._docker(
                *("create", "--pull", "never", "--name", self._name(machine), "--hostname", machine.name),
                *("--network", "cloud", "--cgroupns=private", "--cap-drop", "ALL"),
                *(f"--cap-add={each}" for each in CAPABILITIES),
                *(f"--security-opt={each}=unconfined" for each in ("seccomp", "apparmor", "systempaths")),
                *("--device-cgroup-rule", "a *:* rwm", "--stop-signal", "SIGRTMIN+3"),
                *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"),
                *("--tmpfs", "/var/lib/docker:exec,size=4g", "--tmpfs", "/var/lib/containerd:exec"),
                *self._loaded(),
                *("-v", f"{seed}:/var/lib/cloud/seed/nocloud:ro", NAME),
            )
            self._docker("network", "connect", "private", self._name(machine))
            self._docker("start", self._name(machine))
        except Exception as error:
            self._faults[machine.id] = error

    def _loaded(self) -> tuple[str, ...]:
        given = {
            self.images: "/var/lib/images",
            self._folder / "loads.sh": "/var/lib/loads.sh",
            self._folder / "loads.conf": "/etc/systemd/system/docker.service.d/loads.conf",
        }
        return tuple(word for here, there in given.items() for word in ("-v", f"{here}:{there}:ro"))

    def _inspect(self, machine: Machine) -> dict[str, dict[str, dict[str, dict[str, str]]]]:
        (found,) = json.loads(self._docker("inspect", self._name(machine)))
        return dict(found)

    def _docker(self, *words: str, stdin: Path | None = None) -> str:
        with (stdin or Path(os.devnull)).open("rb") as file:
            done = subprocess.run(["docker", *words], env=self._env, stdin=file, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            raise HostError(f"docker {words[0]}: {done.stderr.strip()}")
        return done.stdout

    def __enter__(self) -> RealMachines:
        try:
            number = self._take_number()
            self._net = f"198.19.{number}"  # no private network: the machines' firewall is for the tests too
            (self._folder / "loads.sh").write_text(LOADS)
            (self._folder / "loads.conf").write_text("[Service]\nExecStartPost=/bin/sh /var/lib/loads.sh\n")
            command = [
                *("sh", "-c", KEEPER, str(self._folder), "--data-root", f"{self._folder}/data"),
                *("--exec-root", f"{self._folder}/exec", "--pidfile", f"{self._folder}/docker.pid"),
                *("-H", f"unix://{self._socket}", "--bridge=none", "--iptables=false", "--ip6tables=false"),
                "--storage-driver=overlay2",
            ]
            with (self._folder / "dockerd.log").open("wb") as log:
                env = {**self._env, "PATH": PATH}
                self._keeper = subprocess.Popen(
                    command,
                    env=env,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=(self._lock,) if self._lock is not None else (),  # the network is taken until it is gone
                )
            wait_for(self._answers, 30, "the Docker daemon of the simulated cloud")
            for name, net in (("cloud", self._net), ("private", f"10.79.{number}")):
                self._docker("network", "create", "--internal", "--subnet", f"{net}.0/24", "--ip-range", f"{net}.0/25", name)
            changes = ("-c", 'CMD ["/sbin/init"]', "-c", "ENV container=docker")
            self._docker("import", *changes, str(image()), NAME)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _answers(self) -> bool:
        return subprocess.run(["docker", "version"], env=self._env, capture_output=True, timeout=20).returncode == 0

    def _take_number(self) -> int:
        """The number of networks that no other test process uses: a locked file for each, freed by the kernel with its holder."""
        STATE.mkdir(mode=0o700, exist_ok=True)
        for number in range(1, 200):
            descriptor = os.open(STATE / f"net-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                continue
            self._lock = descriptor
            return number
        raise HostError("no network is free")

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            self._keeper.wait(120)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealMachines]:
    """The session's one vendor's hall: a test ends the machines that it made. Their Docker has the image `local/busybox`."""
    need(*missing_tools())
    images = tmp_path_factory.mktemp("loaded")
    busybox_image(images)
    with RealMachines(images) as machines:
        yield machines
