"""SSH connections to hosts: one for each address, shared, its host key always pinned (D6), every wait bounded.

Never the user's agent, keys or ssh config: only the key that was named, or our own.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...models.errors import ConfigurationError, HostKeyChanged, Unreachable

if TYPE_CHECKING:
    import asyncssh

CONNECT = 10.0
LOGIN = 10.0
KEEPALIVE = 8.0
UNANSWERED = 3
"""Keepalives without an answer after which a link is dead: a stopped sshd is noticed within 32 s."""
COMMAND = 60.0
"""Seconds that a short command may take."""
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr")
"""OpenSSL's own AES-GCM first: in Python it carries several times what the default does."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where and as whom to log in. ``identity_file`` '' is our own key. ``proxy`` is logged in to first."""

    hostname: str
    port: int
    user: str
    identity_file: str = ""
    proxy: Address | None = None

    @property
    def endpoint(self) -> str:
        """What a host key is pinned to."""
        via = f" via {self.proxy.endpoint}" if self.proxy else ""
        return f"{self.hostname}:{self.port}{via}"

    def __str__(self) -> str:
        return f"{self.user}@{self.endpoint}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, data: dict[str, Any]) -> Address:
        return cls(**{**data, "proxy": cls.of_json(data["proxy"]) if data.get("proxy") else None})


class Pins(Protocol):
    """Host keys that are known, as ``<algorithm> <base64>``. Called on the engine's loop."""

    async def get(self, endpoint: str) -> str:
        """The pinned key; '' before the first contact."""

    async def put(self, endpoint: str, key: str) -> None:
        """Pin a key that was shown on a first contact that ended in a login."""


def _usable_key(file: str) -> Path:
    """The file of a private key. Raises ConfigurationError for one that is absent or that others can read (D10)."""
    path = Path(file).expanduser()
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigurationError(f"the key {path} cannot be read: {error.strerror}", hint="check identity_file") from None
    if stat.S_IMODE(status.st_mode) & 0o077 and status.st_uid == os.getuid():
        raise ConfigurationError(f"others can read the private key {path}", hint=f"chmod 600 {shlex.quote(str(path))}")
    return path


class Connections:
    """All connections of one engine. Use it from the engine's loop. ``own_key`` makes and names our own private key."""

    def __init__(self, pins: Pins, own_key: Path) -> None:
        self._pins = pins
        self._own_key = own_key
        self._open: dict[Address, asyncssh.SSHClientConnection] = {}
        self._locks: dict[Address, asyncio.Lock] = {}

    async def get(self, address: Address) -> asyncssh.SSHClientConnection:
        """The living connection to ``address``, made if there is none.

        Raises Unreachable, HostKeyChanged (nothing was sent), ConfigurationError (the key).
        """
        async with self._locks.setdefault(address, asyncio.Lock()):
            connection = self._open.get(address)
            if connection is not None and not connection.is_closed():
                return connection
            tunnel = await self.get(address.proxy) if address.proxy else None
            self._open[address] = await self._connect(address, tunnel)
            return self._open[address]

    async def _connect(self, address: Address, tunnel: asyncssh.SSHClientConnection | None) -> asyncssh.SSHClientConnection:
        import asyncssh

        # At its own level it logs every command line.
        asyncssh.set_log_level("WARNING")
        key = await asyncio.to_thread(_usable_key, address.identity_file or str(self._own_key))
        pinned = await self._pins.get(address.endpoint)
        guard = _Guard(pinned)
        limits: dict[str, Any] = {}
        if pinned:
            name = pinned.split()[0]
            limits["server_host_key_algs"] = ["rsa-sha2-512", "rsa-sha2-256"] if name == "ssh-rsa" else [name]
        try:
            connection = await asyncio.wait_for(
                asyncssh.connect(
                    address.hostname,
                    address.port,
                    username=address.user,
                    client_keys=[str(key)],
                    known_hosts=b"",
                    client_factory=lambda: guard.client(asyncssh),
                    config=None,
                    agent_path=None,
                    tunnel=tunnel,
                    preferred_auth="publickey",
                    gss_host=None,
                    compression_algs=None,
                    encryption_algs=list(CIPHERS),
                    connect_timeout=CONNECT,
                    login_timeout=LOGIN,
                    keepalive_interval=KEEPALIVE,
                    keepalive_count_max=UNANSWERED,
                    **limits,
                ),
                CONNECT + LOGIN,
            )
        except asyncssh.PermissionDenied:
            whose = address.identity_file or f"our own, {self._own_key}.pub"
            raise Unreachable(
                f"{address.hostname} refuses the key of {address.user} ({whose})",
                hint=f"put its public half into ~{address.user}/.ssh/authorized_keys there, or name another identity_file",
            ) from None
        except asyncssh.KeyImportError as error:
            hint = "a key without a passphrase is needed"
            raise ConfigurationError(f"the key {key} cannot be used: {error}", hint=hint) from None
        except (OSError, asyncssh.Error, TimeoutError) as error:
            if guard.refused or (pinned and isinstance(error, asyncssh.KeyExchangeFailed)):
                raise HostKeyChanged(
                    f"{address.endpoint} shows another host key than the one that is pinned: nothing was sent",
                    hint="somebody else may answer there; if the host was reinstalled: `%dstack fleets trust FLEET HOST`",
                ) from None
            raise Unreachable(f"{address.endpoint} cannot be reached: {_reason(error)}") from error
        if not pinned:
            await self._pins.put(address.endpoint, guard.shown)
        return connection

    async def forget(self, address: Address) -> None:
        """Close a connection; the next ``get`` makes a new one."""
        connection = self._open.pop(address, None)
        if connection is not None:
            connection.abort()

    async def close(self) -> None:
        for connection in self._open.values():
            connection.abort()
        self._open.clear()


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


class _Guard:
    """Compares the key that a host shows with the pinned one, before anything is sent."""

    def __init__(self, pinned: str) -> None:
        self.pinned = pinned
        self.shown = ""
        self.refused = False

    def client(self, asyncssh: Any) -> Any:
        guard = self

        class Client(asyncssh.SSHClient):  # type: ignore[misc]
            def validate_host_public_key(self, host: str, addr: str, port: int, key: Any) -> bool:
                guard.shown = " ".join(key.export_public_key("openssh").decode().split()[:2])
                guard.refused = bool(guard.pinned) and guard.shown != guard.pinned
                return not guard.refused

        return Client()


async def run(
    connection: asyncssh.SSHClientConnection, command: str, *, data: bytes = b"", limit: float = COMMAND
) -> tuple[int, bytes, bytes]:
    """(exit code, output, errors) of a command. Raises Unreachable when the link breaks or ``limit`` seconds pass."""
    import asyncssh

    try:
        done = await asyncio.wait_for(connection.run(command, input=data, encoding=None, check=False), limit)
    except (OSError, asyncssh.Error, TimeoutError) as error:
        raise Unreachable(f"the link broke: {_reason(error)}") from error
    code = done.exit_status if done.exit_status is not None else 255
    return code, _bytes(done.stdout), _bytes(done.stderr)


def _bytes(output: object) -> bytes:
    return output if isinstance(output, bytes) else b""
