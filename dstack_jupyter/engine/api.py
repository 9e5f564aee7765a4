"""The REST API on the unix socket: parses, calls the service, maps errors. The Jupyter routes forward to it.

Who may connect is decided by the kernel's word on the other end of the socket (SO_PEERCRED): the same user, nobody else.
"""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import json
import logging
import os
import secrets
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from tornado import web
from tornado.iostream import StreamClosedError

from ..models.endpoint import API_ROOT
from ..models.errors import ConfigurationError, DstackJupyterError, EngineError, Forbidden, LimitExceeded, NotFound, Problem
from ..models.fleets_view import FleetRequest
from ..models.home import Home
from ..models.runs import ApplyRequest, EngineInfo, PingFrame, PlanRequest, StopRequest
from .service_protocol import ServiceProtocol

log = logging.getLogger(__name__)

LARGEST_BODY = 2 << 20
LARGEST_UPLOAD = 1 << 30
SILENCE = 15.0
"""Seconds after which a quiet stream says that it is alive."""
USER_HEADER = "X-Dstack-User"


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


class InfoHandler(Handler):
    def get(self) -> None:
        self.answer(self.context.info())


class HandoverHandler(Handler):
    def post(self) -> None:
        self.answer({}, 202)
        self.context.handover()


class RotateKeyHandler(Handler):
    async def post(self) -> None:
        self.answer(await (await self.context.service()).rotate_key())


class BackendsHandler(Handler):
    async def get(self) -> None:
        self.answer(await (await self.context.service()).backends())


class DoctorHandler(Handler):
    async def get(self) -> None:
        self.answer(await (await self.context.service()).doctor())


class PlanHandler(Handler):
    async def post(self) -> None:
        self.answer(await (await self.context.service()).plan(self.body(PlanRequest)))


class FleetsHandler(Handler):
    async def get(self) -> None:
        self.answer(await (await self.context.service()).fleets.list(project=self.project))

    async def post(self) -> None:
        service = await self.context.service()
        self.answer(await service.fleets.apply(self.body(FleetRequest), user=self.user), 201)


class FleetHandler(Handler):
    async def get(self, name: str) -> None:
        self.answer(await (await self.context.service()).fleets.get(name, project=self.project))

    async def delete(self, name: str) -> None:
        await (await self.context.service()).fleets.delete(name, project=self.project, user=self.user)
        self.answer({}, 202)


class TrustHandler(Handler):
    async def post(self, name: str, host: str) -> None:
        self.answer(await (await self.context.service()).fleets.trust(name, host, project=self.project))


class RunsHandler(Handler):
    async def get(self) -> None:
        last = self.number("last", 0) or None
        service = await self.context.service()
        self.answer(await service.runs(project=self.project, all=self.flag("all"), last=last))

    async def post(self) -> None:
        service = await self.context.service()
        self.answer(await service.apply(self.body(ApplyRequest), user=self.user), 201)


class RunHandler(Handler):
    async def get(self, ref: str) -> None:
        self.answer(await (await self.context.service()).run(ref, project=self.project))


class StopHandler(Handler):
    async def post(self, ref: str) -> None:
        wanted = self.body(StopRequest)
        service = await self.context.service()
        self.answer(await service.stop(ref, project=self.project, abort=wanted.abort, user=self.user))


class LogsHandler(Handler):
    async def get(self, ref: str) -> None:
        service = await self.context.service()
        frames = service.stream(
            ref,
            project=self.project,
            offset=self.number("offset", 0),
            follow=self.flag("follow"),
            job=self.number("job", 0),
            attempt=self.get_query_argument("attempt", ""),
        )
        await self.stream("application/x-ndjson", with_pings(frames))


class RawLogHandler(Handler):
    async def get(self, ref: str) -> None:
        service = await self.context.service()
        pieces = service.raw_log(ref, project=self.project, offset=self.number("offset", 0), job=self.number("job", 0))
        await self.stream("application/octet-stream", pieces)


class FilesHandler(Handler):
    async def get(self, ref: str) -> None:
        service = await self.context.service()
        path = self.get_query_argument("path", ".", strip=False)
        await self.stream("application/x-tar", service.pull(ref, project=self.project, path=path, job=self.number("job", 0)))


class EventsHandler(Handler):
    async def get(self) -> None:
        service = await self.context.service()
        after = self.number("after", 0)
        if self.flag("follow"):
            await self.stream("application/x-ndjson", with_pings(service.follow_events(project=self.project, after=after)))
            return
        limit = min(self.number("limit", 100), 1000)
        run = self.get_query_argument("run", "")
        self.answer(await service.events(project=self.project, after=after, limit=limit, run=run))


@web.stream_request_body
class CodeHandler(Handler):
    """An uploaded archive, written to a file while it comes in and kept only if its hash is what its name says."""

    def prepare(self) -> None:
        super().prepare()
        self._hash = hashlib.sha256()
        self._size = 0
        self._file: Any = None
        self._path = Path()
        if self.request.method == "PUT":
            self.request.connection.set_max_body_size(LARGEST_UPLOAD)  # type: ignore[union-attr]
            descriptor, name = tempfile.mkstemp(dir=self.context.home.code, prefix=".upload-")  # made 0600
            self._path = Path(name)
            self._file = os.fdopen(descriptor, "wb")

    def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        self._hash.update(chunk)
        if self._file is not None:
            self._file.write(chunk)

    async def head(self, sha256: str) -> None:
        self.set_status(200 if await (await self.context.service()).has_code(sha256) else 404)

    async def put(self, sha256: str) -> None:
        self._file.close()
        if self._hash.hexdigest() != sha256:
            raise ConfigurationError("the upload does not have the hash of its name", hint="apply again")
        await (await self.context.service()).store_code(sha256, self._path)
        self.answer({"sha256": sha256, "size": self._size}, 201)

    def on_finish(self) -> None:
        self._discard()

    def on_connection_close(self) -> None:
        self._discard()

    def _discard(self) -> None:
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)


REF = r"([^/]{1,200})"
ROUTES: tuple[tuple[str, type[Handler]], ...] = (
    ("/info", InfoHandler),
    ("/engine/handover", HandoverHandler),
    ("/engine/rotate-key", RotateKeyHandler),
    ("/backends", BackendsHandler),
    ("/doctor", DoctorHandler),
    ("/fleets", FleetsHandler),
    (f"/fleets/{REF}", FleetHandler),
    (f"/fleets/{REF}/hosts/{REF}/trust", TrustHandler),
    ("/runs/plan", PlanHandler),
    ("/runs", RunsHandler),
    (f"/runs/{REF}", RunHandler),
    (f"/runs/{REF}/stop", StopHandler),
    (f"/runs/{REF}/logs", LogsHandler),
    (f"/runs/{REF}/logs/raw", RawLogHandler),
    (f"/runs/{REF}/files", FilesHandler),
    ("/events", EventsHandler),
    (r"/code/([0-9a-f]{64})", CodeHandler),
)


def application(context: Context) -> web.Application:
    return web.Application(
        [(API_ROOT + path, handler, {"context": context}) for path, handler in ROUTES],
        default_handler_class=_Absent,
        default_handler_args={"context": context},
        log_function=lambda _: None,
    )


class _Absent(Handler):
    def prepare(self) -> None:
        super().prepare()
        raise web.HTTPError(404)
