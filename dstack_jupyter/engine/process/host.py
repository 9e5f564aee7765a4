"""Hosts the engine on a thread and loop of its own: lease, socket, endpoint, and the engine itself once it is needed.

Used by the Jupyter server extension (``kind='server'``) and by ``python -m dstack_jupyter.engine`` (``'process'``). A server
asks a process to hand over; between two servers the first one hosts and the second is a client until the first is gone or
stands still. One that was taken over from steps down when it wakes, and waits for its turn again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import TYPE_CHECKING, Literal

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket

from ..._version import __version__
from ...models import endpoint
from ...models.endpoint import API_VERSION, Endpoint
from ...models.engine import EngineInfo
from ...models.errors import DstackJupyterError, StoreUnavailable
from ...models.home import Home
from ..api.handler import Context
from ..api.routes import LARGEST_UPLOAD, application
from ..store.location import shared
from .lock import LOOK, Lease, refuse_network_home
from .peek import has_unfinished

if TYPE_CHECKING:
    from ..engine import Engine
    from ..service.runs import Service

log = logging.getLogger(__name__)

AGAIN = 5.0
"""Seconds between two tries to start an engine whose store does not answer."""
STOP = 5.0
"""Seconds that a stop may take before the host's process goes on without us."""


class EngineHost:
    """``start`` and ``stop`` are called by the host's own thread and do not wait for the engine; the rest runs on our loop.

    ``released`` is called (on our loop) after a handover: a process then ends.
    """

    def __init__(self, home: Home, kind: Literal["server", "process"], released: Callable[[], None] | None = None) -> None:
        self.home = home
        self.kind = kind
        self.started_at = time.time()
        self.last_request = time.monotonic()
        self._released = released
        self._lease = Lease(home)
        self._engine: Engine | None = None
        self._starting: asyncio.Lock | None = None
        self._server: HTTPServer | None = None
        self._context: Context | None = None
        self._endpoint: Endpoint | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._reign: asyncio.Event | None = None
        self._problem = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dstack-jupyter-engine", daemon=True)

    def start(self) -> None:
        """Begin on our thread. Raises ConfigurationError for a home that cannot be used."""
        if shared(self.home) is None:
            refuse_network_home(self.home)
        self._thread.start()

    def wait_ready(self, timeout: float) -> bool:
        """Wait until the lease was tried for the first time. For tests and for a process; a server does not wait."""
        return self._ready.wait(timeout)

    def stop(self) -> None:
        """End within ``STOP`` seconds; jobs and machines go on."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end)
            self._thread.join(STOP)

    def _end(self) -> None:
        assert self._ending is not None
        self._ending.set()
        self._lost()

    def _lost(self) -> None:
        """Our time is over, for good or because another host has taken over."""
        if self._reign is not None:
            self._reign.set()

    @property
    def hosting(self) -> bool:
        return self._endpoint is not None

    @property
    def busy(self) -> bool:
        """Whether a run or machine is not done with, somebody waits for an answer, or the engine is being started."""
        asked = self._context is not None and self._context.under_way > 0
        starting = self._starting is not None and self._starting.locked()
        return asked or starting or self.unfinished() > 0

    def unfinished(self) -> int:
        """Runs and machines that still need an engine; one that is only starting counts as work, or it could end as idle."""
        if self._engine is None:
            return int(self._starting is not None and self._starting.locked())
        return self._engine.unfinished()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except Exception:
            # Nobody waits for this thread: what ends it must at least be in the log.
            log.exception("the engine's thread ended")
        finally:
            self._lease.release()
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._starting = asyncio.Lock()
        try:
            while not self._ending.is_set():
                if await asyncio.to_thread(self._take_lease):
                    try:
                        await self._serve()
                    finally:
                        await self._close()
                    if self.kind == "process":
                        return
                elif self.kind == "server" or self._lease.moving:
                    self._ready.set()  # a process goes away if somebody acts, and only then
                try:
                    await asyncio.wait_for(self._ending.wait(), LOOK)
                except TimeoutError:
                    continue
        finally:
            if self._released is not None:
                self._released()

    def _take_lease(self) -> bool:
        """Try for the lease; a server asks a process that holds it to hand over. Blocks briefly; every ``LOOK`` seconds."""
        if self._lease.acquire():
            return True
        if self._lease.stands_still():
            if self._lease.take_over():
                log.warning("the engine's host, process %d, stands still: taking over", self._lease.displaced)
                return True
            return False
        holder = endpoint.read(self.home)
        if self.kind != "server" or holder is None or holder.host != "process":
            return False
        from ...transport import request

        try:
            request(holder.socket, "POST", "/engine/handover", timeout=STOP)
        except (OSError, HTTPException, DstackJupyterError) as error:
            log.info("the engine process %d did not hand over yet: %s", holder.pid, error)
            return False
        deadline = time.monotonic() + STOP
        while time.monotonic() < deadline:
            if self._lease.acquire():
                return True
            time.sleep(0.02)
        return False

    async def _serve(self) -> None:
        self._reign = asyncio.Event()
        beating = asyncio.get_running_loop().create_task(self._beats(), name="lease")
        path = self.home.runtime_folder() / "engine.sock"
        self._context = Context(self.home, self._info, self._service, self._hand_over)
        self._server = HTTPServer(application(self._context), max_body_size=LARGEST_UPLOAD)
        self._server.add_socket(bind_unix_socket(str(path), mode=0o600))
        mine = Endpoint(os.getpid(), str(path), self.kind, self.started_at)
        mine.write(self.home)
        self._endpoint = mine  # who sees that we host must find us
        self._ready.set()
        # One that was taken over from can write until our engine has opened the store: so it does that at once.
        needed = self._lease.displaced or has_unfinished(self.home)
        beginning = asyncio.get_running_loop().create_task(self._begin(), name="begin") if needed else None
        try:
            await self._reign.wait()
        finally:
            for task in filter(None, (beating, beginning)):
                task.cancel()
                await asyncio.wait({task})

    async def _beats(self) -> None:
        while self._lease.beat():
            await asyncio.sleep(LOOK)
        log.warning("another host has taken over while this one stood still: stepping down")
        self._lost()

    async def _begin(self) -> None:
        """Start the engine before anybody asks."""
        while True:
            try:
                await self._service()
            except DstackJupyterError as error:
                # A full disk, say, or a database that is away. Who asks meanwhile tries too, and is told.
                log.warning("the engine could not start: %s", error)
                await asyncio.sleep(AGAIN)
            else:
                return

    async def _service(self) -> Service:
        """The running engine's service; starts the engine on first use, once."""
        assert self._starting is not None
        self.last_request = time.monotonic()
        async with self._starting:
            if self._engine is None:
                # Imported here: SQLAlchemy costs a server nothing before somebody needs it.
                module = await asyncio.to_thread(_import_engine)
                engine = module(self.home, self._lost)
                try:
                    await engine.start()
                except asyncio.CancelledError:
                    await engine.stop()
                    raise
                except DstackJupyterError as error:
                    if isinstance(error, StoreUnavailable) and self._lease.displaced:
                        error.hint = f"let the process go on that stands still: `kill -CONT {self._lease.displaced}`"
                    self._problem = error.text
                    await engine.stop()
                    raise
                self._problem = ""
                self._engine = engine
        return self._engine.service

    def _info(self) -> EngineInfo:
        return EngineInfo(
            api_version=API_VERSION,
            version=__version__,
            python=sys.executable,
            pid=os.getpid(),
            host=self.kind,
            home=str(self.home.root),
            installation=self.home.installation(),
            started_at=self.started_at,
            store_open=self._engine is not None,
            unfinished_runs=self.unfinished(),
            problems=[self._problem] if self._problem else [],
        )

    def _hand_over(self) -> None:
        if self.kind == "process":
            self._end()

    async def _close(self) -> None:
        if self._endpoint is not None:
            self._endpoint.remove(self.home)
        if self._server is not None:
            self._server.stop()
        if self._engine is not None:
            await self._engine.stop()
        if self._server is not None:
            await self._server.close_all_connections()
        self._endpoint = self._server = self._engine = self._reign = None
        self._lease.release()


def _import_engine() -> type[Engine]:
    from ..engine import Engine

    return Engine
