"""The routes of the REST API on the unix socket: each parses, calls the service, answers. Jupyter's routes forward to it."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from tornado import web

from ...models.cleanup_view import CleanupRequest, ForgetRequest
from ...models.endpoint import API_ROOT
from ...models.errors import ConfigurationError
from ...models.fleets_view import FleetRequest
from ...models.runs import ApplyRequest, PlanRequest, StopRequest
from .handler import Context, Handler, with_pings

LARGEST_UPLOAD = 1 << 30


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
        self.answer(await service.fleets.apply(self.body(FleetRequest), user=self.user, files=self.files), 201)


class FleetPlanHandler(Handler):
    async def post(self) -> None:
        self.answer(await (await self.context.service()).fleets.plan(self.body(FleetRequest)))


class FleetHandler(Handler):
    async def get(self, name: str) -> None:
        self.answer(await (await self.context.service()).fleets.get(name, project=self.project))

    async def delete(self, name: str) -> None:
        await (await self.context.service()).fleets.delete(name, project=self.project, user=self.user)
        self.answer({}, 202)


class TrustHandler(Handler):
    async def post(self, name: str, host: str) -> None:
        self.answer(await (await self.context.service()).fleets.trust(name, host, project=self.project))


class CleanupHandler(Handler):
    async def get(self) -> None:
        self.answer(await (await self.context.service()).cleanup.accounts())

    async def post(self) -> None:
        service = await self.context.service()
        self.answer(await service.cleanup.end(self.body(CleanupRequest), user=self.user))


class ForgetHandler(Handler):
    async def post(self) -> None:
        service = await self.context.service()
        self.answer(await service.cleanup.forget(self.body(ForgetRequest).name, user=self.user))


class MachinesHandler(Handler):
    async def get(self) -> None:
        self.answer(await (await self.context.service()).machines(project=self.project, all=self.flag("all")))


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
    ("/fleets/plan", FleetPlanHandler),
    (f"/fleets/{REF}", FleetHandler),
    (f"/fleets/{REF}/hosts/{REF}/trust", TrustHandler),
    ("/cleanup", CleanupHandler),
    ("/cleanup/forget", ForgetHandler),
    ("/machines", MachinesHandler),
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
