"""HTTP over a unix socket with the standard library: light enough for a kernel, a fresh connection for each request.

Safe on any thread; a KeyboardInterrupt leaves nothing half-done on our side.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import quote, urlencode

from .models.endpoint import API_ROOT
from .models.errors import EngineError, from_envelope


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            raise


def target(path: str, query: dict[str, Any] | None = None) -> str:
    """The request target of an API path, which may hold names from users."""
    url = API_ROOT + quote(path)
    return f"{url}?{urlencode(query)}" if query else url


def open_response(
    socket_path: str,
    method: str,
    path: str,
    *,
    query: dict[str, Any] | None = None,
    body: bytes | IO[bytes] | None = None,
    headers: dict[str, str] | None = None,
    timeout: float = 60.0,
) -> http.client.HTTPResponse:
    """Send a request; the response's headers are there, its body is for the caller to read (and to close).

    Raises OSError and HTTPException when nobody answers, and the error that the engine answered with.
    """
    connection = UnixConnection(socket_path, timeout)
    try:
        connection.request(method, target(path, query), body=body, headers={"Connection": "close", **(headers or {})})
        response = connection.getresponse()
        if response.status >= 400 and method != "HEAD":
            raise _error(response)
    except BaseException:
        connection.close()
        raise
    return response


def _error(response: http.client.HTTPResponse) -> Exception:
    text = response.read()
    try:
        return from_envelope(json.loads(text))
    except (ValueError, TypeError, AttributeError):
        return EngineError(f"the engine answered {response.status} without an explanation")


def request(socket_path: str, method: str, path: str, **more: Any) -> Any:
    """The JSON answer of a request; None for an empty one. Raises as ``open_response``."""
    with open_response(socket_path, method, path, **more) as response:
        text = response.read()
    return json.loads(text) if text else None


def lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The lines of an NDJSON answer as they arrive. A connection that breaks in the middle raises HTTPException or OSError."""
    while line := response.readline():
        if not line.endswith(b"\n"):
            raise http.client.IncompleteRead(line)
        yield line
