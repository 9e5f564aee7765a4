"""Docker's Engine API over its unix socket on a host, forwarded by SSH: no docker client on either side.

Source of every call and field: Docker Engine API reference v1.41, the oldest that still serves; paths carry no version, so the
daemon takes its own.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpcore

from ...models.errors import DstackJupyterError, Unreachable

if TYPE_CHECKING:
    import asyncssh

CALL = 60.0
SILENCE = 120.0
"""Seconds without a line of a pull's progress after which it counts as stuck."""


class DockerError(DstackJupyterError):
    """Docker's own refusal; ``status`` is its HTTP status. Never leaves this package: the launcher says what it means."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.http_status = status


class _Stream(httpcore.AsyncNetworkStream):
    def __init__(self, reader: Any, writer: Any) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        import asyncio

        try:
            return bytes(await asyncio.wait_for(self._reader.read(max_bytes), timeout))
        except TimeoutError:
            raise httpcore.ReadTimeout from None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._writer.write(buffer)
        await self._writer.drain()

    async def aclose(self) -> None:
        self._writer.close()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise NotImplementedError

    def get_extra_info(self, info: str) -> Any:
        return None


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, connection: asyncssh.SSHClientConnection, socket: str) -> None:
        self._connection, self._socket = connection, socket

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        reader, writer = await self._connection.open_unix_connection(self._socket, encoding=None)
        return _Stream(reader, writer)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError


class Docker:
    """One daemon behind one connection. Made for a call or a few; cheap."""

    def __init__(self, connection: asyncssh.SSHClientConnection, socket: str) -> None:
        self._pool = httpcore.AsyncConnectionPool(network_backend=_Backend(connection, socket), max_keepalive_connections=0)

    async def call(self, method: str, path: str, body: Any = None, *, timeout: float = CALL) -> Any:
        """The JSON answer, None if there is none. Raises DockerError, Unreachable."""
        content = b"" if body is None else json.dumps(body).encode()
        headers = [("Host", "docker"), ("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        try:
            response = await self._pool.request(
                method, f"http://docker{path}", headers=headers, content=content, extensions={"timeout": {"read": timeout}}
            )
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise Unreachable(f"Docker does not answer: {error or type(error).__name__}") from error
        except Exception as error:
            raise _of_link(error) from error
        _check(response.status, response.content)
        return json.loads(response.content) if response.content.strip() else None

    async def pull(self, image: str, username: str, password: str) -> AsyncIterator[dict[str, Any]]:
        """Pull an image; the progress lines as Docker sends them. Raises DockerError, Unreachable."""
        name, tag = split_image(image)
        headers = [("Host", "docker"), ("Content-Length", "0")]
        if username:
            auth = {"username": username, "password": password, "serveraddress": registry_of(image)}
            headers.append(("X-Registry-Auth", base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()))
        url = f"http://docker/images/create?fromImage={_quoted(name)}&tag={_quoted(tag)}"
        try:
            async with self._pool.stream("POST", url, headers=headers, extensions={"timeout": {"read": SILENCE}}) as response:
                if response.status >= 400:
                    _check(response.status, await response.aread())
                rest = b""
                async for piece in response.aiter_stream():
                    *lines, rest = (rest + piece).split(b"\n")
                    for line in lines:
                        if line.strip():
                            yield _progress(line)
                if rest.strip():
                    yield _progress(rest)
        except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise Unreachable(f"the pull of {image} broke off: {error or type(error).__name__}") from error

    async def close(self) -> None:
        await self._pool.aclose()


def _of_link(error: Exception) -> DstackJupyterError:
    import asyncssh

    if isinstance(error, asyncssh.Error):
        return Unreachable(f"Docker's socket cannot be reached: {error}")
    raise error


def _check(status: int, content: bytes) -> None:
    if status < 400:
        return
    try:
        message = str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        message = content[:200].decode("utf-8", "replace")
    raise DockerError(status, message)


def _progress(line: bytes) -> dict[str, Any]:
    progress: dict[str, Any] = json.loads(line)
    if "error" in progress:
        raise DockerError(500, str(progress["error"]))
    return progress


def _quoted(text: str) -> str:
    return quote(text, safe="")


def split_image(image: str) -> tuple[str, str]:
    """(name, tag or digest): ``a/b:1`` is (``a/b``, ``1``), without a tag it is ``latest``; a port is no tag."""
    name, at, digest = image.partition("@")
    if at:
        return name, digest
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "latest")


def registry_of(image: str) -> str:
    """The registry that an image's name means: its first part where that looks like a host."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "https://index.docker.io/v1/"
