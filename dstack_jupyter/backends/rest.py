"""HTTP to a vendor's API: nothing is retried, no redirect is followed, a create that got no clear answer is unknown.

A vendor gives its way to log in, the meaning of its errors and its limits; paths and bodies are its own. Blocks.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..models.errors import (
    BackendError,
    BackendUnreachable,
    ConfigurationError,
    RateLimited,
    Refused,
    UnknownOutcome,
)
from ..models.secret import redact
from .pace import pace_of

if TYPE_CHECKING:
    import httpx

CONNECT, ANSWER, WHOLE = 10.0, 30.0, 120.0
"""Seconds until a connection stands, without a byte of an answer, and for the whole answer."""
LARGEST = 32 << 20
"""Bytes of an answer that are read."""
DELAY = 30.0
"""Seconds to wait after 'too many requests' that does not say how long."""
LONGEST_DELAY = 3600.0


def _unsent() -> tuple[type[Exception], ...]:
    """The errors that httpx raises before a byte of the request has left."""
    import httpx

    return httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol


@dataclass(frozen=True, slots=True)
class Answer:
    """A vendor's answer that is no success. ``permission`` is what the call needs, as the caller stated it."""

    status: int
    body: Any
    text: str
    headers: Mapping[str, str]
    permission: str


def endpoint(name: str, default: str) -> str:
    """Where a vendor's API is: its own address, or what ``DSTACK_JUPYTER_<NAME>_ENDPOINT`` says.

    Raises ConfigurationError for what would carry a key in clear text over a network.
    """
    variable = f"DSTACK_JUPYTER_{name.upper()}_ENDPOINT"
    base = os.environ.get(variable, "").rstrip("/") or default
    parts = urlsplit(base)
    secure = parts.scheme == "https" or (parts.scheme == "http" and _here(parts.hostname or ""))
    if not parts.hostname or parts.username or not secure:
        raise ConfigurationError(f"{variable} must be an https address without a user in it", hint=f"unset it for {default}")
    return base


def _here(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Rest:
    """One account's HTTP client. Safe on any thread. Connections are made when first needed."""

    def __init__(
        self,
        name: str,
        base: str,
        key: str,
        headers: Mapping[str, str],
        meaning: Callable[[Answer], BackendError | None],
        limits: tuple[tuple[int, float], ...] = (),
    ) -> None:
        """``meaning`` gives the error that a vendor's 4xx answer stands for; None for an answer that it does not know.

        ``key`` only tells accounts apart.
        """
        self.name = name
        self.base = base
        self.account_id = hashlib.sha256(f"{base} {key}".encode()).hexdigest()[:16]
        self._headers = {"Accept": "application/json", **headers}
        self._meaning = meaning
        self.answer_within = ANSWER
        """Seconds without a byte of an answer. Counts for connections that are made from then on."""
        self.whole_within = WHOLE
        self.pace = pace_of(self.account_id, name, limits)
        self._closing = threading.Lock()

    @cached_property
    def _client(self) -> httpx.Client:
        import httpx

        logging.getLogger("httpx").setLevel(logging.WARNING)  # its lines hold whole addresses
        timeout = httpx.Timeout(self.answer_within, connect=CONNECT)
        return httpx.Client(base_url=self.base, headers=self._headers, timeout=timeout, follow_redirects=False)

    def close(self) -> None:
        """Close the connections; the next call opens others."""
        with self._closing:
            client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None, *, permission: str = "") -> Any:
        """What a GET answers, parsed. Raises models.errors."""
        return self._call("GET", path, params=params, permission=permission)

    def send(self, method: str, path: str, body: Any = None, *, permission: str = "") -> Any:
        """A call that changes something and may be repeated. Raises models.errors."""
        return self._call(method, path, body=body, permission=permission)

    def make(self, path: str, body: Any, *, permission: str = "") -> Any:
        """A POST that makes something, sent once. Raises an error whose ``nothing_made`` holds, else UnknownOutcome."""
        try:
            return self._call("POST", path, body=body, permission=permission, patient=True)
        except BackendError as error:
            if error.nothing_made:
                raise
            raise UnknownOutcome(f"{error.message}; it may have been made all the same", hint=error.hint) from None

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        permission: str = "",
        patient: bool = False,
    ) -> Any:
        import httpx

        sent: dict[str, Any] = {} if body is None else {"json": body}
        try:
            with self.pace.call(patient=patient), self._client.stream(method, path, params=params, **sent) as answer:
                text = self._read(answer)
        except _unsent() as error:
            raise BackendUnreachable(f"{self.name} is not reached: {_said(error)}", hint="is there a network?") from None
        except httpx.HTTPError as error:
            raise BackendError(f"{self.name} gave no answer: {_said(error)}") from None
        if answer.is_success:
            return self._parsed(method, answer.status_code, text)
        raise self._error(answer, text, permission)

    def _read(self, answer: httpx.Response) -> str:
        """The whole answer. A read's time-out counts anew with each byte: an answer that drips would hold the thread for ever."""
        deadline = time.monotonic() + self.whole_within
        data = bytearray()
        for piece in answer.iter_bytes():
            data += piece
            if len(data) > LARGEST:
                raise BackendError(f"{self.name} answers with more than {LARGEST >> 20} MiB")
            if time.monotonic() > deadline:
                raise BackendError(f"{self.name} has not finished its answer in {self.whole_within:.0f} s")
        return data.decode("utf-8", "replace")

    def _parsed(self, method: str, status: int, text: str) -> Any:
        if status == 204 or (method == "DELETE" and not text):
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise BackendError(f"{self.name} answers with something that makes no sense") from None

    def _error(self, answer: httpx.Response, text: str, permission: str) -> BackendError:
        status = answer.status_code
        if 300 <= status < 400:
            # A client that followed would send the key to another host, or turn the POST into a GET.
            host = urlsplit(answer.headers.get("location", "")).hostname or "another address"
            variable = f"DSTACK_JUPYTER_{self.name.upper()}_ENDPOINT"
            return Refused(
                f"{self.name}: its API has moved from {urlsplit(self.base).hostname} to {host}; nothing was sent there",
                hint=f"if that is the vendor's host: {variable}=https://{host}",
            )
        if status == 429 or (status == 503 and answer.request.method == "GET" and "retry-after" in answer.headers):
            delay = _delay(answer.headers)
            self.pace.pause(delay)
            return RateLimited(f"{self.name}: too many requests; asked again in {delay:.0f} s", delay=delay)
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        known = self._meaning(Answer(status, body, redact(text)[:500], answer.headers, permission))
        return known or BackendError(f"{self.name}: HTTP {status}: {one_line(text)}")


def one_line(text: str) -> str:
    """A vendor's own words, short and without secrets."""
    return " ".join(redact(text).split())[:300]


def _said(error: Exception) -> str:
    return one_line(str(error)) or type(error).__name__


def _delay(headers: Mapping[str, str]) -> float:
    """Seconds that a vendor wants us to wait. ``retry-after`` in seconds or as a date, else the time its limit is reset."""
    for name in ("retry-after", "ratelimit-reset", "x-ratelimit-reset"):
        value = headers.get(name, "")
        try:
            seconds = float(value)
        except ValueError:
            from email.utils import parsedate_to_datetime

            try:
                seconds = parsedate_to_datetime(value).timestamp()
            except ValueError:
                continue
        if seconds > 1e8:  # a moment, not a span
            seconds -= time.time()
        return min(max(seconds, 1.0), LONGEST_DELAY)
    return DELAY
