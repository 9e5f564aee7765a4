"""Ports of running jobs on this machine's loopback, and an ssh config entry for those that can be logged in to.

The engine owns forwards, which live as long as the run. Each new connection is carried to the machine anew, so users do not
notice a link that broke and came back. This module also knows whether anybody uses a dev environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

from ...machines.base import Machine
from ...models.configurations import AnyRun
from ...models.errors import DstackJupyterError
from ...models.home import Home, write_private
from ...models.runs import Attachment, Forward
from ..keys.ssh_keys import Keys
from ..store.rows import AttemptRow, InstanceRow, RunRow
from .job_ssh import PORT

log = logging.getLogger(__name__)

PIECE = 1 << 16
SSHD_PATIENCE = 10.0
"""Seconds that a dev environment's sshd may take to answer; after that the dev environment is shown without a login."""


@dataclass(slots=True)
class _Open:
    """The forwards of one attempt."""

    run_id: str
    run_name: str
    task: AnyRun
    servers: list[asyncio.Server] = field(default_factory=list)
    ports: dict[int, int] = field(default_factory=dict)
    """Local port of each of the job's ports."""
    connections: int = 0
    used_at: float = field(default_factory=time.monotonic)
    notes: list[str] = field(default_factory=list)
    login: str = ""


class Forwards:
    """The forwards of this engine, on its loop."""

    def __init__(self, home: Home, keys: Keys) -> None:
        self._home = home
        self._keys = keys
        self._open: dict[str, _Open] = {}
        self._waiting: dict[str, float] = {}

    async def ensure(self, attempt: AttemptRow, run: RunRow, instance: InstanceRow, machine: Machine) -> bool:
        """Open a running job's forwards; idempotent. False: not ready yet, ask again. Raises Unreachable."""
        if attempt.id in self._open or attempt.job:
            return True
        # Shown only when complete: a user who waits for a dev environment takes the first answer.
        task = run.configuration.task
        dev = task.type == "dev-environment"
        if not task.ports and not dev:
            return True
        opened = _Open(run.id, run.name, task)
        if instance.backend == "local":
            # The job's ports are this machine's own.
            opened.ports = {port.container_port: port.container_port for port in task.ports}
            self._open[attempt.id] = opened
            return True
        published = await machine.ports(attempt.id)
        sshd = dev and PORT in published and await _answers(machine, published[PORT])
        if dev and not sshd:
            since = self._waiting.setdefault(attempt.id, time.monotonic())
            if PORT in published and time.monotonic() - since < SSHD_PATIENCE:
                return False
            opened.notes.append("no sshd answers in it: an IDE cannot log in")
        self._waiting.pop(attempt.id, None)
        for port in task.ports:
            remote = published.get(port.container_port, port.container_port)
            wanted = port.local_port or 0
            opened.ports[port.container_port] = await self._listen(opened, machine, wanted, remote)
            if wanted and opened.ports[port.container_port] != wanted:
                opened.notes.append(
                    f"port {wanted} is in use here: {port.container_port} is at {opened.ports[port.container_port]}"
                )
        if sshd:
            opened.ports[PORT] = await self._listen(opened, machine, 0, published[PORT])
            opened.login = task.user.partition(":")[0] if task.user else "root"
        self._open[attempt.id] = opened
        await asyncio.to_thread(self._write_config)
        return True

    async def _listen(self, opened: _Open, machine: Machine, wanted: int, remote: int) -> int:
        """A listener on the loopback for a port of the machine; at ``wanted`` if it is free, else at any."""

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Awaitable[None]:
            return self._carry(opened, machine, remote, reader, writer)

        try:
            server = await asyncio.start_server(accept, "127.0.0.1", wanted)
        except OSError:
            server = await asyncio.start_server(accept, "127.0.0.1", 0)
        opened.servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _carry(
        self, opened: _Open, machine: Machine, remote: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        opened.connections += 1
        try:
            there, back = await machine.connect(remote)
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        except (DstackJupyterError, OSError) as error:
            log.info("forward to port %s of %s: %s", remote, opened.run_name, error)
        finally:
            opened.connections -= 1
            opened.used_at = time.monotonic()
            writer.close()

    def idle_seconds(self, attempt_id: str) -> float:
        """How long nobody has been connected to a job; 0 while somebody is."""
        opened = self._open.get(attempt_id)
        return 0.0 if opened is None or opened.connections else time.monotonic() - opened.used_at

    def attachment(self, attempt_id: str, folder: str) -> Attachment | None:
        """How users can reach a job from here; None while nobody can. ``folder`` is its working folder there."""
        opened = self._open.get(attempt_id)
        if opened is None:
            return None
        forwards = [
            Forward(port=port, local_port=local, url=f"http://127.0.0.1:{local}")
            for port, local in opened.ports.items()
            if port != PORT
        ]
        ide = getattr(opened.task, "ide", None) or ""
        host = opened.run_name if PORT in opened.ports else ""
        link = ""
        if ide in ("vscode", "cursor", "windsurf") and host:
            link = f"{ide}://vscode-remote/ssh-remote+{host}{folder}"
        elif ide == "zed" and host:
            link = f"zed://ssh/{host}{folder}"
        include = f"Include {self._home.ssh_config}"
        return Attachment(
            forwards=forwards, ssh_host=host, ssh_config=include if host else "", ide=ide, link=link, notes=opened.notes
        )

    def close(self, attempt_id: str) -> None:
        """The job has ended."""
        self._waiting.pop(attempt_id, None)
        opened = self._open.pop(attempt_id, None)
        if opened is None:
            return
        for server in opened.servers:
            server.close()
        if opened.login:
            with contextlib.suppress(OSError):
                self._write_config()

    def close_all(self) -> None:
        for attempt_id in list(self._open):
            self.close(attempt_id)

    def _write_config(self) -> None:
        """Our own ssh config file: whoever wants the entries includes it; nobody's ~/.ssh/config is touched."""
        entries, known = ["# Written by dstack_jupyter; it comes and goes with the runs."], ""
        hosts = self._home.ssh_config.with_name("known_hosts")
        for opened in self._open.values():
            if not opened.login:
                continue
            entries.append(
                f"Host {opened.run_name}\n  HostName 127.0.0.1\n  Port {opened.ports[PORT]}\n  User {opened.login}\n"
                f"  IdentityFile {self._keys.file}\n  IdentitiesOnly yes\n  HostKeyAlias dj-{opened.run_id}\n"
                f"  UserKnownHostsFile {hosts}\n  StrictHostKeyChecking yes"
            )
            known += f"dj-{opened.run_id} {self._keys.of_run(opened.run_id, 'host-0').public}\n"
        write_private(hosts, known.encode())
        write_private(self._home.ssh_config, ("\n".join(entries) + "\n").encode())


async def _answers(machine: Machine, port: int) -> bool:
    """Whether an sshd greets at a port of the machine: Docker's proxy takes connections before sshd listens."""
    try:
        reader, writer = await machine.connect(port)
        try:
            return bool((await asyncio.wait_for(reader.read(4), 5)) == b"SSH-")
        finally:
            writer.close()
    except (DstackJupyterError, OSError, TimeoutError):
        return False


async def _copy(reader: Any, writer: Any) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.write_eof()
