"""A private registry for the hosts: Debian's docker-registry on the bridge, with a password or without."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

from tests.hosts.hosts import PATH, Host, HostError, HostSet, wait_for

CONFIG = """\
version: 0.1
log: {{level: info}}
storage:
  filesystem: {{rootdirectory: {folder}/data}}
  delete: {{enabled: true}}
http: {{addr: "{address}", secret: tests}}
"""
AUTH = "auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}\n"


def missing_registry() -> list[str]:
    """The package that this machine lacks for a registry."""
    return [] if shutil.which("docker-registry", path=PATH) else ["docker-registry"]


class Registry:
    """Runs while its `with` block does. `address` is `ip:port`, an image's name there `address/name`.

    Plain HTTP: the hosts' dockerds take all addresses of their bridge for insecure registries.
    """

    def __init__(self, hosts: HostSet, folder: Path, user: str = "", password: str = "") -> None:
        self.folder = folder
        self.user = user
        self.password = password
        self._ip = hosts.bridge_ip
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{self._ip}:{self._port}"

    @property
    def log(self) -> Path:
        """What it logged, a line for a request."""
        return self.folder / "registry.log"

    def __enter__(self) -> Registry:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        self._port = _free_port(self._ip)
        config = CONFIG.format(folder=self.folder, address=self.address)
        if self.user:
            (self.folder / "htpasswd").write_text(f"{self.user}:{_bcrypt(self.password)}\n")
            config += AUTH.format(folder=self.folder)
        (self.folder / "config.yml").write_text(config)
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it, again after `stop`, under the same address with the same images."""
        # As the hosts: its own pid namespace, whose init ends with the pipe that only this process holds.
        script = f"docker-registry serve {shlex.quote(str(self.folder / 'config.yml'))} & read -r _"
        argv = ["unshare", "--pid", "--fork", "--kill-child", "bash", "-c", script]
        with self.log.open("ab") as log:
            env = {"PATH": PATH, "OTEL_TRACES_EXPORTER": "none"}
            self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, cwd="/")
        wait_for(self._answers, 20, f"the registry, see {self.log}")

    def stop(self) -> None:
        """Ends it: connections are refused."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait(10)

    def push(self, host: Host, image: str, name: str) -> str:
        """Pushes an image that the host has; returns its full name. The host keeps neither that name nor a login."""
        full = f"{self.address}/{name}"
        config = f"/tmp/push-{os.urandom(4).hex()}"
        login = (
            f"docker --config {config} login --username {shlex.quote(self.user)} --password-stdin {self.address} && "
            if self.user
            else ""
        )
        command = f"{login}docker tag {image} {full} && docker --config {config} push {full}"
        try:
            host.do(command, stdin=self.password, timeout=60)
        finally:
            host.run(f"rm -rf {config}; docker rmi {full}")
        return full

    def _answers(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            raise HostError(f"the registry did not start: {self.log.read_text()[-2000:]}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://{self.address}/v2/", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                return error.code == 401
        except OSError:
            return False


def _free_port(ip: str) -> int:
    with socket.socket() as probe:
        probe.bind((ip, 0))
        return int(probe.getsockname()[1])


def _bcrypt(password: str) -> str:
    """The line's hash, by libcrypt itself: Python's `crypt` ends with 3.12, and htpasswd is one more package."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    found: bytes | None = library.crypt(password.encode(), b"$2y$05$" + os.urandom(11).hex().encode()[:22])
    if found is None or not found.startswith(b"$2y$"):
        raise HostError("libcrypt has no bcrypt")
    return found.decode()
