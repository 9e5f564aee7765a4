"""Real machines behind a face: system containers that boot systemd and run the real cloud-init on a create call's user-data.

Each has an address of its own in a network that leads nowhere else, its own sshd, its own dockerd. Their Docker daemon, network
and state belong to one test process and go with it. Needs root; see ``image.py`` for what they boot.
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
from pathlib import Path
from types import TracebackType

from tests.clouds.core import Machine
from tests.clouds.image import RECIPE, image
from tests.hosts.hosts import HostError, wait_for

CAPABILITIES = (
    *("AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER"),
    *("FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE", "LINUX_IMMUTABLE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE"),
    *("NET_BROADCAST", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT"),
    *("SYS_NICE", "SYS_PTRACE", "SYS_RAWIO", "SYS_TTY_CONFIG"),
)
"""One by one, for a root that lacks SYS_RESOURCE may not give them all."""
TOOLS = {"dockerd": "docker.io", "docker": "docker.io", "mmdebstrap": "mmdebstrap", "ip": "iproute2", "nsenter": "util-linux"}
STATE = Path("/run/dstack-jupyter-clouds")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NAME = f"local/instance:{RECIPE}"
KEEPER = r"""
dockerd "$@" &
read -r _
docker ps -aq | xargs -r docker rm -f >/dev/null
docker network rm cloud
kill $! && wait $!
grep -o " $0/[^ ]*" /proc/mounts | sort -r | xargs -r umount -l
rm -rf "$0"
"""
"""Runs the daemon until the end of a pipe that only the test process holds, so that no machine outlives a killed test run."""


def missing_tools() -> list[str]:
    """What this machine lacks: package names, and `root` for a user without the right."""
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool, path=PATH) is None})
    return missing if os.geteuid() == 0 else ["root", *missing]


class RealMachines:
    """``core.Backing``. A context: it starts a Docker daemon of its own and ends it with every machine."""

    def __init__(self) -> None:
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
        if self._booting[machine.id].is_alive() or machine.word == "ending":
            return
        if machine.id in self._faults:
            raise self._faults[machine.id]
        found = self._inspect(machine)
        machine.word = "running" if found["State"]["Running"] else "stopped"
        address = found["NetworkSettings"]["Networks"]["cloud"]["IPAddress"]
        machine.address = machine.internal = address or machine.address  # a stopped one keeps its own at a vendor

    def end(self, machine: Machine) -> None:
        self._booting.pop(machine.id).join(120)
        self._docker("rm", "-f", self._name(machine))
        shutil.rmtree(self._seed(machine), ignore_errors=True)

    # What a test does to a machine itself.

    def inside(self, machine: Machine, *command: str, stdin: Path | None = None) -> str:
        """Run a command on the machine, past its sshd."""
        return self._docker("exec", *(("-i",) if stdin else ()), self._name(machine), *command, stdin=stdin)

    def console(self, machine: Machine) -> str:
        """What cloud-init wrote: for a test that failed."""
        with contextlib.suppress(HostError):
            return self.inside(machine, "tail", "-n", "60", "/var/log/cloud-init-output.log")
        return self._docker("logs", self._name(machine))

    def power_on(self, machine: Machine) -> None:
        self._docker("start", self._name(machine))

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
                *("run", "--pull", "never", "-d", "--name", self._name(machine), "--hostname", machine.name),
                *("--network", "cloud", "--cgroupns=private", "--cap-drop", "ALL"),
                *(f"--cap-add={each}" for each in CAPABILITIES),
                *(f"--security-opt={each}=unconfined" for each in ("seccomp", "apparmor", "systempaths")),
                *("--device-cgroup-rule", "a *:* rwm", "--stop-signal", "SIGRTMIN+3"),
                *("--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"),
                *("--tmpfs", "/var/lib/docker:exec,size=4g", "--tmpfs", "/var/lib/containerd:exec"),
                *("-v", f"{seed}:/var/lib/cloud/seed/nocloud:ro", NAME),
            )
        except Exception as error:
            self._faults[machine.id] = error

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
            subnet = self._take_subnet()
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
            self._docker("network", "create", "--internal", "--subnet", subnet, "--ip-range", subnet, "cloud")
            changes = ("-c", 'CMD ["/sbin/init"]', "-c", "ENV container=docker")
            self._docker("import", *changes, str(image()), NAME)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _answers(self) -> bool:
        return subprocess.run(["docker", "version"], env=self._env, capture_output=True, timeout=20).returncode == 0

    def _take_subnet(self) -> str:
        """A network that no other test process uses: a locked file for each, freed by the kernel with its holder."""
        STATE.mkdir(mode=0o700, exist_ok=True)
        for number in range(1, 200):
            descriptor = os.open(STATE / f"net-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                continue
            self._lock = descriptor
            return f"198.19.{number}.0/24"  # no private network: the machines' firewall is for the tests too
        raise HostError("no network is free")

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            self._keeper.stdin.close()
            self._keeper.wait(120)
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
