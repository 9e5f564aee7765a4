"""The REST routes of the Jupyter server: who may do what; the engine answers.

An allow-list: a route that is not in the table does not exist. Each request is checked against its own resource, explicitly:
a decorator on an inherited method would remember the first handler's.
"""

from __future__ import annotations

import json
from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server.auth.utils import HTTP_METHOD_TO_AUTH_ACTION
from jupyter_server.base.handlers import APIHandler
from jupyter_server.extension.handler import ExtensionHandlerMixin
from tornado import iostream, web

from . import forward
from .forward import API

REF = r"[^/]{1,200}"

# (path, methods, resource of the authorizer)
ROUTES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("/info", ("GET",), "dstack_jupyter:engine"),
    ("/doctor", ("GET",), "dstack_jupyter:engine"),
    ("/backends", ("GET",), "dstack_jupyter:backends"),
    ("/events", ("GET",), "dstack_jupyter:events"),
    ("/cleanup", ("GET", "POST"), "dstack_jupyter:cleanup"),
    ("/cleanup/forget", ("POST",), "dstack_jupyter:cleanup"),
    ("/fleets", ("GET", "POST"), "dstack_jupyter:fleets"),
    ("/fleets/plan", ("POST",), "dstack_jupyter:fleets"),
    (f"/fleets/{REF}", ("GET", "DELETE"), "dstack_jupyter:fleets"),
    (f"/fleets/{REF}/hosts/{REF}/trust", ("POST",), "dstack_jupyter:fleets"),
    ("/machines", ("GET",), "dstack_jupyter:machines"),
    ("/runs", ("GET", "POST"), "dstack_jupyter:runs"),
    ("/runs/plan", ("POST",), "dstack_jupyter:runs"),
    (f"/runs/{REF}", ("GET",), "dstack_jupyter:runs"),
    (f"/runs/{REF}/stop", ("POST",), "dstack_jupyter:runs"),
    (f"/runs/{REF}/logs", ("GET",), "dstack_jupyter:runs"),
    (f"/runs/{REF}/logs/raw", ("GET",), "dstack_jupyter:runs"),
    (f"/runs/{REF}/files", ("GET",), "dstack_jupyter:runs"),
)


class ForwardHandler(ExtensionHandlerMixin, APIHandler):
    """One route. ``methods`` and ``resource`` come from the table."""

    def initialize(self, name: str, methods: tuple[str, ...], resource: str) -> None:
        super().initialize(name)
        self._methods = methods
        self._content_type = "application/json"
        self.auth_resource = resource

    @web.authenticated
    async def get(self) -> None:
        await self._forward()

    @web.authenticated
    async def post(self) -> None:
        await self._forward()

    @web.authenticated
    async def delete(self) -> None:
        await self._forward()

    async def _may(self, action: str, resource: str) -> bool:
        """An authorizer may answer at once or later; an answer that nobody awaits would count as yes."""
        return await ensure_async(self.authorizer.is_authorized(self, self.current_user, action, resource))

    async def _forward(self) -> None:
        method = str(self.request.method)
        if method not in self._methods:
            raise web.HTTPError(405)
        action = HTTP_METHOD_TO_AUTH_ACTION[method]
        if not await self._may(action, self.auth_resource):
            raise web.HTTPError(403)
        path = API + str(self.request.uri).split(API, 1)[1]
        try:
            # Who may execute code here can read every file of this account anyway.
            files = await self._may("execute", "kernels")
            body, name = self.request.body or b"", self.current_user.username
            async with forward.ask(path, method, body, name, files=files) as answer:
                self.set_status(answer.status)
                self.set_header("X-Content-Type-Options", "nosniff")
                self._content_type = answer.headers.get("content-type", "application/json")
                async for piece in answer.pieces():
                    self.write(piece)
                    await self.flush()
        except (ConnectionError, TimeoutError) as error:
            self.set_status(503)
            hint = "it starts with the server; `%dstack doctor` and engine.log say more"
            self.write(json.dumps({"code": "engine_unavailable", "message": str(error), "hint": hint, "request_id": ""}))
        except iostream.StreamClosedError:
            return  # the browser went away
        await self.finish()

    def flush(self, include_footers: bool = False) -> Any:
        # APIHandler would say JSON of everything.
        if not self._headers_written:
            self.set_header("Content-Type", self._content_type)
        return super().flush(include_footers)


def handlers() -> list[tuple[str, type[ForwardHandler], dict[str, Any]]]:
    return [(API + path, ForwardHandler, {"methods": methods, "resource": resource}) for path, methods, resource in ROUTES]
