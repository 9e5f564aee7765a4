"""What every route of the socket is made of: who calls, JSON in and out, streams, one mapping of errors.

Who may connect is decided by the kernel's word on the other end of the socket (SO_PEERCRED): the same user, nobody else.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import logging
import os
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from pydantic import BaseModel, ValidationError
from tornado import web
from tornado.iostream import StreamClosedError

from ...models.engine import EngineInfo
from ...models.errors import ConfigurationError, DstackJupyterError, EngineError, Forbidden, LimitExceeded, NotFound, Problem
from ...models.frames import PingFrame
from ...models.home import Home
from .service_protocol import ServiceProtocol

log = logging.getLogger(__name__)

LARGEST_BODY = 2 << 20
SILENCE = 15.0
"""Seconds after which a quiet stream says that it is alive."""
USER_HEADER = "X-Dstack-User"
FILES_HEADER = "X-Dstack-Files"


class Context:
    """What the handlers need of their host. ``service`` starts the engine if it does not run yet.

    ``under_way`` counts the requests that have not been answered to the end.
    """

    def __init__(
        self,
        home: Home,
        info: Callable[[], EngineInfo],
        service: Callable[[], Awaitable[ServiceProtocol]],
        handover: Callable[[], None],
    ) -> None:
        self.home = home
        self.info = info
        self.service = service
        self.handover = handover
        self.under_way = 0


def same_user(connection: socket.socket) -> bool:
    """Whether the process at the other end of a unix socket belongs to our user."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True  # macOS: the folder's 0700 and the socket's 0600 are the guard
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", credentials)
    return bool(user == os.getuid())


class Handler(web.RequestHandler):
    """Base of all routes: identity of the caller, JSON in and out, one mapping of errors."""

    def initialize(self, context: Context) -> None:
        self.context = context
        self._counted = False

    def prepare(self) -> None:
        self._counted = True
        self.context.under_way += 1
        connection = self.request.connection.stream.socket  # type: ignore[union-attr]
        if not same_user(connection):
            raise Forbidden("this engine belongs to another user")

    def on_finish(self) -> None:
        self.context.under_way -= self._counted
        self._counted = False

    def on_connection_close(self) -> None:
        self.on_finish()  # who went away is not answered to the end by anybody

    def check_xsrf_cookie(self) -> None:
        """No browser speaks to this socket."""

    @property
    def project(self) -> str:
        return self.get_query_argument("project", "main")

    @property
    def user(self) -> str:
        return self.request.headers.get(USER_HEADER) or getpass.getuser()

    @property
    def files(self) -> bool:
        """Whether who asks may read the files of this account: a Jupyter server says so where it may be otherwise."""
        return self.request.headers.get(FILES_HEADER, "1") == "1"

    def number(self, name: str, default: int) -> int:
        text = self.get_query_argument(name, str(default))
        if not text.isdigit():
            raise ConfigurationError(f"{name} must be a whole number, not {text!r}")
        return int(text)

    def flag(self, name: str) -> bool:
        return self.get_query_argument(name, "0") in ("1", "true")

    def body(self, model: type[Any]) -> Any:
        if len(self.request.body) > LARGEST_BODY:
            raise LimitExceeded("the request has more than 2 MiB", hint="code belongs into `files` or `repos`")
        return model.model_validate_json(self.request.body or b"{}")

    def answer(self, value: Any, status: int = 200) -> None:
        self.set_status(status)
        self.set_header("Content-Type", "application/json")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.finish(json.dumps(_plain(value)))

    async def stream(self, content_type: str, pieces: AsyncIterator[bytes]) -> None:
        """Send pieces as they come; the first one is waited for, so that an error can still be an error."""
        iterator = aiter(pieces)
        first = await anext(iterator, None)
        self.set_header("Content-Type", content_type)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        try:
            if first is not None:
                self.write(first)
                await self.flush()
                async for piece in iterator:
                    self.write(piece)
                    await self.flush()
            await self.finish()
        except StreamClosedError:
            pass  # the reader went away, which is its right: nothing of ours depends on it
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        cause = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        error = _as_ours(cause, status_code)
        if isinstance(error, EngineError):
            error.request_id = error.request_id or secrets.token_hex(4)
            log.error("request %s: %s %s", error.request_id, self.request.method, self.request.path, exc_info=cause)
        self.set_status(error.status)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(error.envelope()))

    def log_exception(self, *_: Any) -> None:
        """``write_error`` has logged what is a defect; the rest are answers."""


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _as_ours(cause: BaseException | None, status: int) -> DstackJupyterError:
    if isinstance(cause, DstackJupyterError):
        return cause
    if isinstance(cause, ValidationError):
        faults = cause.errors(include_input=False, include_context=False, include_url=False)
        problems = [Problem(fault["msg"], key=".".join(str(part) for part in fault["loc"])) for fault in faults]
        return ConfigurationError("the request cannot be understood", problems=problems)
    if isinstance(cause, web.MissingArgumentError):
        return ConfigurationError(f"the argument {cause.arg_name} is missing")
    if status == 404:
        return NotFound("there is no such route", hint="client and engine may be of different versions: restart both")
    if status in (400, 405):
        return ConfigurationError(f"the request was refused ({status})")
    return EngineError("the engine met a defect of its own", hint="its log is engine.log in the state folder")


async def with_pings(frames: AsyncIterator[Any]) -> AsyncIterator[bytes]:
    """Frames as NDJSON lines; a ping after each silence."""
    iterator = aiter(frames)
    pending = asyncio.ensure_future(anext(iterator, None))
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=SILENCE)
            if not done:
                yield PingFrame().model_dump_json().encode() + b"\n"
                continue
            frame = pending.result()
            if frame is None:
                return
            yield frame.model_dump_json().encode() + b"\n"
            pending = asyncio.ensure_future(anext(iterator, None))
    finally:
        pending.cancel()
        await asyncio.wait({pending})
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
