"""Hosts for the tests: each has its own address, file system, processes, sshd and, on demand, dockerd.

A host is a set of namespaces whose root is an overlay over this machine's files: whatever it writes stays in a tmpfs.
Its init ends at the end of a pipe that only the test process holds, so that hosts never outlive a killed test run.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, overload

import asyncssh

STATE = Path("/run/dstack-jupyter-hosts")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOOLS = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "useradd": "passwd",
    "sudo": "sudo",
}
DOCKER_TOOLS = {"dockerd": "docker.io", "docker": "docker.io", "iptables": "iptables", "busybox": "busybox-static"}
# Folders of this machine that a host must not see: each is an empty one of its own.
EMPTY = {"root": 0o700, "home": 0o755, "etc/ssh": 0o755, "etc/docker": 0o755, "var/lib/docker": 0o711, "var/log": 0o755}

INIT = r"""
set -e
d=$1 name=$2 ip=$3
mount -t overlay overlay -o "lowerdir=/,upperdir=$d/up,workdir=$d/work" "$d/root"
cd "$d/root"
mount -t proc proc proc
mount -t sysfs sys sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --rbind /dev dev
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 pts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount --bind "$d/docker" var/lib/docker
mount --bind "$d/boot_id" proc/sys/kernel/random/boot_id
mkdir -p run/sshd run/lock run/before
hostname "$name"
pivot_root . run/before
cd /
umount -l run/before
rmdir run/before
read -r _
ip link set lo up
ip addr add "$ip/24" dev eth0
ip link set eth0 up
/usr/sbin/sshd -E /var/log/sshd.log
while read -r _; do :; done
"""

SSHD_CONFIG = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
Subsystem sftp internal-sftp
"""


class HostError(Exception):
    """A host, or what belongs to it, did not do what it was told to."""


def missing_tools(docker: bool = False) -> list[str]:
    """What this machine lacks for hosts: package names, and `root` for a user without the right."""
    wanted = TOOLS | (DOCKER_TOOLS if docker else {})
    missing = sorted({package for tool, package in wanted.items() if shutil.which(tool, path=PATH) is None})
    return missing if os.geteuid() == 0 else ["root", *missing]


def wait_for(condition: Callable[[], object], timeout: float, what: str) -> None:
    """Looks every 5 ms until `condition` holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise HostError(f"waited {timeout:g} s for {what}")
        time.sleep(0.005)


def _tool(*argv: str, stdin: str = "", check: bool = True) -> str:
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60)
    if check and done.returncode != 0:
        raise HostError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _links(lines: Iterable[str], check: bool = True) -> None:
    """Runs lines of `ip` in one process. Without `check` it goes on after a fault."""
    _tool("ip", *([] if check else ["-force"]), "-batch", "-", stdin="\n".join(lines) + "\n", check=check)


class Host:
    """One machine of a `HostSet`. `user` may log in with the set's key; `host_key` is what sshd shows now."""

    user = "root"

    def __init__(self, owner: HostSet, number: int) -> None:
        self.name = f"h{number}"
        self.ip = f"{owner.net}.{10 + number}"
        self.pid = 0
        self._owner = owner
        self._link = f"{owner.tag}-{number}"
        self._mac = f"02:64:6a:00:{owner.slot:02x}:{number:02x}"
        self._disk = owner.disks / self.name
        self._key = asyncssh.generate_private_key("ssh-ed25519", comment=self.name)
        self._first_key = self._key
        self._outer: subprocess.Popen[bytes] | None = None
        self._has_docker = False

    # -- what it is

    @property
    def host_key(self) -> str:
        """The public key that sshd shows, as in a known_hosts line without the address."""
        return self._key.export_public_key("openssh").decode().strip()

    @property
    def boot_id(self) -> str:
        return (self._disk / "boot_id").read_text().strip()

    @property
    def docker_socket(self) -> str:
        """The host's Docker socket as a path of this machine; changes with every boot."""
        return f"/proc/{self.pid}/root/run/docker.sock"

    @property
    def log(self) -> Path:
        """What the host's init printed."""
        return self._owner.folder / f"{self.name}.log"

    # -- inside

    def run(self, command: str, *, stdin: str = "", timeout: float = 30.0) -> tuple[int, str]:
        """Runs a shell command as the host's root without ssh; what it leaves in the background lives on."""
        argv = ["nsenter", f"--target={self.pid}", "--mount", "--uts", "--net", "--pid", "--ipc", "sh", "-c", command]
        # Files, not pipes: a process left in the background would keep a pipe open.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as given:
            given.write(stdin.encode())
            given.seek(0)
            env = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
            with subprocess.Popen(argv, stdin=given, stdout=out, stderr=out, env=env, start_new_session=True) as process:
                try:
                    code = process.wait(timeout)
                except subprocess.TimeoutExpired:
                    # nsenter's child is in the host's pid namespace but still in nsenter's group.
                    os.killpg(process.pid, signal.SIGKILL)
                    raise HostError(f"{self.name}: not done after {timeout:g} s: {command}") from None
            out.seek(0)
            return code, out.read().decode(errors="replace")

    def do(self, command: str, *, stdin: str = "", timeout: float = 30.0) -> str:
        """As `run`, for what must succeed."""
        code, output = self.run(command, stdin=stdin, timeout=timeout)
        if code != 0:
            raise HostError(f"{self.name}: {command!r} ended with {code}: {output.strip()[-2000:]}")
        return output

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Writes a file of the host, its folder too."""
        self.do(f"mkdir -p \"$(dirname '{path}')\"; rm -f '{path}'; install -m {mode:o} /dev/stdin '{path}'", stdin=text)

    def add_tool(self, name: str, script: str) -> None:
        """Puts an executable into the host's /usr/local/bin."""
        self.write(f"/usr/local/bin/{name}", script, 0o755)

    def hide(self, path: str) -> None:
        """Takes a file or folder away until `show`."""
        self.do(f"mkdir -p \"/var/hidden$(dirname '{path}')\" && mv -T '{path}' '/var/hidden{path}'")

    def show(self, path: str) -> None:
        """Brings back what `hide` took."""
        self.do(f"mv -T '/var/hidden{path}' '{path}'")

    def add_user(self, name: str, *, sudo: bool = False, docker_group: bool = False) -> None:
        """A login that takes the set's key; with `sudo`, one that needs no password for it."""
        # `*` and not the default `!`: sshd without PAM refuses a locked account, key or not.
        self.do(f"useradd --create-home --shell /bin/bash --password '*' {name}")
        keys = f"/home/{name}/.ssh/authorized_keys"
        self.write(keys, self._owner.public_key + "\n", 0o600)
        self.do(f"chmod 700 /home/{name}/.ssh && chown -R {name}: /home/{name}/.ssh")
        if sudo:
            self.write(f"/etc/sudoers.d/{name}", f"{name} ALL=(ALL) NOPASSWD: ALL\n", 0o440)
        if docker_group:
            self.do(f"groupadd --force docker && usermod --append --groups docker {name}")

    def remove_user(self, name: str) -> None:
        """Ends the user's processes and takes the login away."""
        self.run(f"pkill -KILL -u {name}")
        self.do(f"rm -f /etc/sudoers.d/{name}; userdel --force --remove {name} 2>&1 || ! id {name}")

    def processes(self, comm: str = "") -> list[int]:
        """Ids, on this machine, of the host's own processes (not those in containers), all or by name."""
        space = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if os.readlink(entry / "ns/pid") == space and comm in {"", (entry / "comm").read_text().strip()}:
                    found.append(int(entry.name))
        return found

    # -- the network

    def cut(self) -> None:
        """From now on every packet to and from the host is lost without a word."""
        _tool("ip", "link", "set", self._link, "nomaster")

    def join(self) -> None:
        """Ends `cut`; connections that waited go on."""
        _tool("ip", "link", "set", self._link, "master", self._owner.tag)

    # -- sshd

    def stop_sshd(self) -> None:
        """Freezes sshd and its sessions: connections are taken by the kernel and never answered."""
        self._signal_sshd(signal.SIGSTOP)

    def continue_sshd(self) -> None:
        """Ends `stop_sshd`."""
        self._signal_sshd(signal.SIGCONT)

    def end_sshd(self) -> None:
        """Kills sshd and all sessions: connections are refused until `start_sshd`."""
        self._signal_sshd(signal.SIGKILL)
        wait_for(lambda: not self.processes("sshd"), 10, f"{self.name}'s sshd to end")
        self.do("rm -f /run/sshd.pid")

    def start_sshd(self) -> None:
        self.do("/usr/sbin/sshd -E /var/log/sshd.log")
        self._wait_for_sshd()

    def change_host_key(self) -> str:
        """Another machine under the same address, as an impostor would be; returns its public key."""
        return self._show_key(asyncssh.generate_private_key("ssh-ed25519", comment=self.name))

    def restore_host_key(self) -> str:
        """Ends `change_host_key`: the key of known_hosts again."""
        return self._show_key(self._first_key)

    def _show_key(self, key: asyncssh.SSHKey) -> str:
        self._key = key
        self.write("/etc/ssh/ssh_host_ed25519_key", key.export_private_key("openssh").decode(), 0o600)
        self.end_sshd()
        self.start_sshd()
        return self.host_key

    def _signal_sshd(self, number: signal.Signals) -> None:
        for pid in self.processes("sshd"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _wait_for_sshd(self) -> None:
        # The file comes after listen(): no SYN is ever lost, which would cost a second.
        wait_for(lambda: self._ended() or os.path.exists(f"/proc/{self.pid}/root/run/sshd.pid"), 20, f"{self.name}'s sshd")
        if self._ended():
            raise HostError(f"{self.name} did not come up: {self.log.read_text()[-2000:]}")
        with socket.create_connection((self.ip, 22), timeout=10) as connection:
            if not connection.recv(64).startswith(b"SSH-2.0"):
                raise HostError(f"{self.name}: no banner of an sshd")

    # -- Docker

    def start_docker(self, timeout: float = 30.0) -> None:
        """Starts dockerd and waits until it answers."""
        if self._docker_answers():
            return
        self.do(
            "rm -f /run/docker.pid /run/docker.sock; groupadd --force docker; setsid dockerd --host unix:///var/run/docker.sock"
            f" --insecure-registry {self._owner.net}.0/24 --cgroup-parent /{self._link} >>/var/log/dockerd.log 2>&1 &"
        )
        try:
            wait_for(self._docker_answers, timeout, f"{self.name}'s dockerd")
        except HostError as error:
            raise HostError(f"{error}: {self.run('tail -n 20 /var/log/dockerd.log')[1]}") from None
        self._has_docker = True

    def stop_docker(self, kill: bool = False) -> None:
        """Ends dockerd, and with it the containers; with `kill` it falls over and leaves them running."""
        self._has_docker = False
        pids = self.processes("dockerd")
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
        wait_for(lambda: not self.processes("dockerd"), 30, f"{self.name}'s dockerd to end")

    def docker(self, *arguments: str, timeout: float = 60.0) -> tuple[int, str]:
        """The docker client of this machine on the host's dockerd."""
        env = {"PATH": PATH, "HOME": str(self._owner.folder), "DOCKER_CONFIG": str(self._owner.folder / "docker-client")}
        done = subprocess.run(
            ["docker", "--host", f"unix://{self.docker_socket}", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            env=env,
        )
        return done.returncode, done.stdout

    def load(self, tar: Path, name: str) -> None:
        """Makes an image of a file system in a tar."""
        code, output = self.docker("import", "-c", 'CMD ["/bin/sh"]', "-c", f"ENV PATH={PATH}", str(tar), name)
        if code != 0:
            raise HostError(f"{self.name}: import of {tar}: {output}")

    def _docker_answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(self.docker_socket)
                connection.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in connection.recv(64)
        except OSError:
            return False

    # -- power

    def reboot(self, *, wipe: bool = False) -> None:
        """Ends every process and boots again with a new boot id; dockerd starts again if it ran.

        The disk stays, /run and /tmp don't. `wipe`: a fresh disk.
        """
        self.power_off()
        if wipe:
            shutil.rmtree(self._disk)
        self.power_on()

    def power_off(self) -> None:
        """Ends every process of the host. After `cut` no connection is told, as when the power fails."""
        self._end()
        _links([f"link del {self._link}"], check=False)

    def power_on(self) -> None:
        """Boots after `power_off`."""
        self._owner._boot([self])
        if self._has_docker:
            self.start_docker()

    def _ended(self) -> bool:
        return self._outer is None or self._outer.poll() is not None

    def _prepare_disk(self) -> None:
        """What the host's disk has at its first boot, and the id of this boot."""
        disk = self._disk
        if not disk.exists():
            for folder in ("up", "work", "root", "docker"):
                (disk / folder).mkdir(parents=True)
            (disk / "docker").chmod(0o711)
            for name, mode in EMPTY.items():
                empty = disk / "up" / name
                empty.mkdir(parents=True)
                empty.chmod(mode)
                os.setxattr(empty, "trusted.overlay.opaque", b"y")
            up = disk / "up"
            (up / "etc/hostname").write_text(f"{self.name}\n")
            # sudo asks for the host's own name; there is nobody else to ask.
            (up / "etc/hosts").write_text(f"127.0.0.1 localhost\n{self.ip} {self.name}\n")
            (up / "etc/resolv.conf").write_text("")
            (up / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
            (up / "etc/ssh/sshd_config").write_text(SSHD_CONFIG)
            key = up / "etc/ssh/ssh_host_ed25519_key"
            key.touch(0o600)
            key.write_bytes(self._key.export_private_key("openssh"))
            (up / "root/.ssh").mkdir(0o700)
            (up / "root/.ssh/authorized_keys").write_text(self._owner.public_key + "\n")
        (disk / "boot_id").write_text(f"{uuid.uuid4()}\n")

    def _start(self) -> None:
        """Starts the host's init, which waits for its network; the first half of a boot."""
        self._prepare_disk()
        argv = ["unshare", "--net", "--uts", "--mount", "--pid", "--ipc", "--fork", "--kill-child"]
        argv += ["bash", str(self._owner.disks / "init"), str(self._disk), self.name, self.ip]
        with self.log.open("ab") as log:
            env = {"PATH": PATH, "LANG": "C.UTF-8"}
            self._outer = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, cwd="/")

    def _find_init(self) -> None:
        assert self._outer is not None
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        wait_for(lambda: self._ended() or children.read_text().strip(), 20, f"{self.name}'s init")
        if self._ended():
            raise HostError(f"{self.name} did not start: {self.log.read_text()[-2000:]}")
        self.pid = int(children.read_text())

    def _give_network(self) -> list[str]:
        """Lines for `ip`. The address of the card is told, not asked for: a cut host is silent, not `unreachable`."""
        return [
            f"link add {self._link} type veth peer name eth0 address {self._mac} netns {self.pid}",
            f"link set {self._link} addrgenmode none",
            f"link set {self._link} master {self._owner.tag} up",
            f"neigh replace {self.ip} lladdr {self._mac} dev {self._owner.tag} nud permanent",
        ]

    def _go_on(self) -> None:
        assert self._outer is not None
        stdin: IO[bytes] | None = self._outer.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended: found by the wait for its sshd
            stdin.write(b"\n")
            stdin.flush()

    def _end(self) -> None:
        """The kernel kills every process of a pid namespace with its init."""
        if self._outer is None:
            return
        if self._outer.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._outer.stdin.close()
        if self.pid and not self._ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        try:
            self._outer.wait(20)
        except subprocess.TimeoutExpired:
            self._outer.kill()  # and --kill-child its child
            self._outer.wait(20)
        self._outer, self.pid = None, 0


class HostSet(Sequence[Host]):
    """Hosts on one bridge of their own. `folder` gets the client's key, known_hosts and logs; no route leads out."""

    def __init__(self, folder: Path, count: int = 3, docker: bool = False) -> None:
        self.folder = folder
        self._count = count
        self._docker = docker
        self._hosts: list[Host] = []
        self._lock = -1
        self.slot = 0

    @property
    def tag(self) -> str:
        """The bridge's name, and how the names of all other parts begin."""
        return f"djh{self.slot}"

    @property
    def net(self) -> str:
        return f"10.78.{self.slot}"

    @property
    def bridge_ip(self) -> str:
        """This machine's address in the eyes of the hosts."""
        return f"{self.net}.1"

    @property
    def disks(self) -> Path:
        return STATE / str(self.slot)

    @property
    def key(self) -> Path:
        """The client's private key."""
        return self.folder / "id"

    @property
    def public_key(self) -> str:
        return (self.folder / "id.pub").read_text().strip()

    @property
    def known_hosts(self) -> Path:
        """The keys that the hosts had at their first boot."""
        return self.folder / "known_hosts"

    def ssh(self, host: Host, command: str, user: str = "root", timeout: float = 30.0) -> tuple[int, str]:
        """The real ssh client with pinned host keys and no configuration of this machine."""
        argv = ["ssh", "-F", "none", "-i", str(self.key), "-o", f"UserKnownHostsFile={self.known_hosts}"]
        argv += ["-o", "GlobalKnownHostsFile=none", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"]
        argv += ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", f"ConnectTimeout={max(1, int(timeout))}"]
        done = subprocess.run(
            [*argv, f"{user}@{host.ip}", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout + 10,
        )
        return done.returncode, done.stdout

    @overload
    def __getitem__(self, index: int) -> Host: ...

    @overload
    def __getitem__(self, index: slice) -> list[Host]: ...

    def __getitem__(self, index: int | slice) -> Host | list[Host]:
        return self._hosts[index]

    def __len__(self) -> int:
        return len(self._hosts)

    def __enter__(self) -> HostSet:
        sweep()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.slot, self._lock = _take_slot()
        try:
            self._up()
        except BaseException:
            self._down()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._down()

    def _up(self) -> None:
        _clean(self.slot)
        self.key.unlink(missing_ok=True)
        key = asyncssh.generate_private_key("ssh-ed25519", comment="tests")
        self.key.touch(0o600)
        self.key.write_bytes(key.export_private_key("openssh"))
        (self.folder / "id.pub").write_bytes(key.export_public_key("openssh"))
        self.disks.mkdir(parents=True)
        # One tmpfs for all disks: Docker's layers are gone from it at once, and overlay2 works on it.
        _tool("mount", "-t", "tmpfs", "-o", "mode=755,size=60%", "hosts", str(self.disks))
        (self.disks / "init").write_text(INIT)
        # The blackhole is a guard: should the bridge vanish, nothing for these addresses leaves the machine.
        _links(
            [
                f"route add blackhole {self.net}.0/24 metric 4000",
                f"link add {self.tag} type bridge",
                f"link set {self.tag} addrgenmode none",
                f"addr add {self.bridge_ip}/24 dev {self.tag}",
                f"link set {self.tag} up",
            ]
        )
        self._hosts = [Host(self, number) for number in range(1, self._count + 1)]
        self.known_hosts.write_text("".join(f"{host.ip} {host.host_key}\n" for host in self._hosts))
        self._boot(self._hosts)
        if self._docker:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(Host.start_docker, self._hosts))

    def _boot(self, hosts: list[Host]) -> None:
        for host in hosts:
            host._start()
        for host in hosts:
            host._find_init()
        _links(line for host in hosts for line in host._give_network())
        for host in hosts:
            host._go_on()
        for host in hosts:
            host._wait_for_sshd()

    def _down(self) -> None:
        for host in self._hosts:
            host._end()
        self._hosts = []
        _clean(self.slot)
        _give_back(self.slot, self._lock)


# -- slots: a set's number gives its subnet and names; who holds the lock of its file owns it, and a dead process holds none


def sweep() -> None:
    """Removes what killed runs left: their hosts ended with them, their bridge and tmpfs did not."""
    for path in STATE.glob("*.lock"):
        slot = int(path.stem)
        lock = _lock_slot(slot)
        if lock is not None:
            _clean(slot)
            _give_back(slot, lock)


def _take_slot() -> tuple[int, int]:
    for slot in range(10, 250):
        STATE.mkdir(parents=True, exist_ok=True)  # in the loop: another set may take the empty folder away
        lock = _lock_slot(slot)
        if lock is not None:
            return slot, lock
    raise HostError("240 sets of hosts are up")


def _lock_slot(slot: int) -> int | None:
    path = STATE / f"{slot}.lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its owner may have removed the file after our open(): then the lock is worth nothing.
            if os.fstat(lock).st_ino == os.stat(path).st_ino:
                return lock
        except OSError:
            pass
        os.close(lock)
    except FileNotFoundError:
        pass
    return None


def _give_back(slot: int, lock: int) -> None:
    (STATE / f"{slot}.lock").unlink(missing_ok=True)
    os.close(lock)
    with contextlib.suppress(OSError):  # other sets are up
        STATE.rmdir()


def _clean(slot: int) -> None:
    """Removes links, route, tmpfs and control groups of a slot, those that are there."""
    tag = f"djh{slot}"
    links = [name for name in os.listdir("/sys/class/net") if name == tag or name.startswith(f"{tag}-")]
    lines = [f"link del {name}" for name in sorted(links, reverse=True)]
    lines.append(f"route del blackhole 10.78.{slot}.0/24 metric 4000")
    _links(lines, check=False)
    disks = STATE / str(slot)
    if disks.is_dir():
        if os.path.ismount(disks):
            _tool("umount", "--lazy", str(disks))
        disks.rmdir()
    groups = Path("/sys/fs/cgroup")
    for group in [*groups.glob(f"{tag}-*"), *groups.glob(f"*/{tag}-*")]:
        if not group.is_symlink() and not group.parent.is_symlink():
            # The kernel lets a group go only when its last process is reaped.
            with contextlib.suppress(HostError):
                wait_for(partial(_remove_group, group), 5, f"{group} to be empty")


def _remove_group(group: Path) -> bool:
    try:
        for folder, _, _ in os.walk(group, topdown=False):
            os.rmdir(folder)
    except OSError:
        return not group.exists()
    return True
