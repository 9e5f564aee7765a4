"""A face on a port of this machine: real HTTP for real clients."""

from __future__ import annotations

import asyncio
import threading
from typing import Protocol

import tornado.httpserver
import tornado.netutil
import tornado.web


class Failure(Exception):
    """An answer that is no success. ``cut``: no answer at all."""

    def __init__(
        self, status: int, id: str = "", message: str = "", headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.id, self.message, self.headers, self.cut = status, id, message, headers or {}, cut


class Face(Protocol):
    def handle(self, method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body) of a request; on the server's thread. Raises Failure where the connection is to be cut."""


class Server:
    """A face on a port of this machine, on a thread and loop of its own. ``url`` is its address."""

    def __init__(self, face: Face) -> None:
        self.face = face
        self.url = ""
        self._up = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="fake-cloud", daemon=True)
        self._thread.start()
        assert self._up.wait(20)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = tornado.httpserver.HTTPServer(
            tornado.web.Application([(r".*", _Handler, {"face": self.face})], log_function=lambda handler: None)
        )
        sockets = tornado.netutil.bind_sockets(0, "127.0.0.1")
        self._server.add_sockets(sockets)
        self.url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        self._up.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._server.close_all_connections())
        self._loop.close()

    def close(self) -> None:
        """Nobody listens any more. A second call is fine."""

        def stop() -> None:
            self._server.stop()
            self._loop.stop()

        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(stop)
        self._thread.join(20)


class _Handler(tornado.web.RequestHandler):
    def initialize(self, face: Face) -> None:
        self.face = face

    def _any(self) -> None:
        headers = {str(name): str(value) for name, value in self.request.headers.get_all()}
        try:
            status, extra, body = self.face.handle(str(self.request.method), self.request.uri or "", headers, self.request.body)
        except Failure:
            self.request.connection.stream.close()  # type: ignore[union-attr]
            return
        self.set_status(status)
        for name, value in extra.items():
            self.set_header(name, value)
        if status == 204:
            self.clear_header("Content-Type")
        self.finish(body) if body else self.finish()

    get = post = put = patch = delete = _any  # type: ignore[assignment]
