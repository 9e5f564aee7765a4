"""What all HTTP vendors share: limits of an account, where an API may be, errors over the wire."""

from __future__ import annotations

import contextlib
import select
import socket
import threading

import pytest

from dstack_jupyter.backends.rest import Rest, _delay, endpoint
from dstack_jupyter.models import errors
from dstack_jupyter.models.errors import BackendError, ConfigurationError, RateLimited, from_envelope


@pytest.mark.parametrize(
    ("headers", "delay"),
    [
        ({"retry-after": "17"}, 17),
        ({"retry-after": "0"}, 1),
        ({"retry-after": "1e9"}, 1),  # a moment that has passed
        ({"retry-after": "999999"}, 3600),
        ({"retry-after": "soon", "ratelimit-reset": "12"}, 12),
        ({"retry-after": "Fri, 01 Jan 2100 00:00:00 GMT"}, 3600),
        ({}, 30),
    ],
)
def test_how_long_a_vendor_wants_us_to_wait(headers: dict[str, str], delay: float) -> None:
    assert _delay(headers) == pytest.approx(delay, abs=1)


@pytest.mark.parametrize(
    "address",
    [
        "http://api.example.com",
        "https://ada:secret@api.example.com",
        "ftp://127.0.0.1",
        "api.example.com",
        "http://127.0.0.1.example.com",
    ],
)
def test_no_key_goes_in_clear_text_over_a_network(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("DSTACK_JUPYTER_DIGITALOCEAN_ENDPOINT", address)
    with pytest.raises(ConfigurationError, match="must be an https address"):
        endpoint("digitalocean", "https://api.digitalocean.com")


@pytest.mark.parametrize(
    "address", ["https://proxy.example.com/do/", "http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost:1"]
)
def test_an_endpoint_is_what_the_setting_says(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("DSTACK_JUPYTER_DIGITALOCEAN_ENDPOINT", address)
    assert endpoint("digitalocean", "https://api.digitalocean.com") == address.rstrip("/")


class Raw:
    """A server that sends what it is told, piece by piece, until its client has gone."""

    def __init__(self, *pieces: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, args=(pieces,))
        self._thread.start()

    def _serve(self, pieces: tuple[bytes, ...]) -> None:
        with self._socket, self._socket.accept()[0] as connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            for piece in pieces:
                connection.sendall(piece)
            while True:
                connection.sendall(b"x")
                if select.select([connection], [], [], 0.02)[0] and not connection.recv(1):
                    return

    def close(self) -> None:
        self._thread.join(20)


@pytest.mark.parametrize("whole", [b"HTTP/1.1 202 Accepted\r\nContent-Length: 99999999\r\n\r\n", b"HTTP/1.1 500 No\r\n\r\n"])
def test_an_answer_that_drips_is_left_and_a_create_is_unknown_then(whole: bytes) -> None:
    """F30 dstack#1241."""
    server = Raw(whole)
    rest = Rest("fake", server.url, "", {}, lambda answer: None)
    rest.whole_within = 0.3
    try:
        with pytest.raises(errors.UnknownOutcome, match="not finished its answer"):
            rest.make("/", {})
    finally:
        rest.close()
        server.close()


def test_an_answer_without_end_is_left() -> None:
    server = Raw(b"HTTP/1.1 200 OK\r\n\r\n", b" " * (33 << 20))
    rest = Rest("fake", server.url, "", {}, lambda answer: None)
    try:
        with pytest.raises(BackendError, match="more than 32 MiB"):
            rest.get("/")
    finally:
        rest.close()
        server.close()


def test_an_error_crosses_a_wire_as_itself() -> None:
    for error in (
        RateLimited("slow", hint="wait", delay=17.0),
        errors.PermissionMissing("no", permission="droplet:create"),
        errors.UnknownOutcome("?"),
        errors.NoQuota("full"),
    ):
        back = from_envelope(error.envelope())
        assert type(back) is type(error)
        assert vars(back) == vars(error)


def test_only_a_clear_no_proves_that_nothing_was_made() -> None:
    proving = {each.__name__ for each in _tree(BackendError) if each.nothing_made}
    assert proving == {
        "BackendNotAvailable", "BackendUnreachable", "RateLimited", "BadCredentials", "PermissionMissing", "NoCapacity",
        "NoQuota", "NoBalance", "NotAtVendor", "Refused",
    }  # fmt: skip


def _tree(cls: type[BackendError]) -> set[type[BackendError]]:
    return {cls} | {found for child in cls.__subclasses__() for found in _tree(child)}
