"""The extension's life: link, load, start, stop. The engine runs on a thread and loop of its own, never on Jupyter's."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_server.extension.application import ExtensionApp

from . import forward, routes

if TYPE_CHECKING:
    from dstack_jupyter.engine.process.host import EngineHost

EVENT_SCHEMA = Path(__file__).parent / "events" / "resource-v1.yaml"


class DstackServerApp(ExtensionApp):
    """Hosts the engine of the user who runs this server."""

    name = "dstack_jupyter_server"
    extension_url = "/dstack_jupyter"
    load_other_extensions = True

    def initialize_handlers(self) -> None:
        """Called by Jupyter while it loads extensions; there is no running loop yet."""
        self.handlers.extend(routes.handlers())

    def initialize_settings(self) -> None:
        self._host: EngineHost | None = None
        self._relay: asyncio.Task[None] | None = None
        # Kernels inherit this: they look in the same state folder, and wait a moment for our engine there.
        os.environ["DSTACK_JUPYTER_SERVER"] = str(os.getpid())
        if self.serverapp is not None and self.serverapp.event_logger is not None:
            self.serverapp.event_logger.register_event_schema(EVENT_SCHEMA)

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """Called once the server runs. Everything heavy happens on a thread: the server does not wait for us."""
        threading.Thread(target=self._host_engine, name="dstack-jupyter-start", daemon=True).start()
        self._relay = asyncio.get_running_loop().create_task(forward.relay_events(serverapp.event_logger))

    def _host_engine(self) -> None:
        from dstack_jupyter.engine.process.host import EngineHost
        from dstack_jupyter.models.errors import DstackJupyterError
        from dstack_jupyter.models.home import ENV_HOME, Home

        home = Home.default()
        os.environ[ENV_HOME] = str(home.root)
        try:
            host = EngineHost(home, "server")
            host.start()
        except DstackJupyterError as error:
            self.log.warning("dstack_jupyter: %s", error)
            return
        self._host = host

    async def stop_extension(self) -> None:
        """Called when the server stops: bounded, and never raises, or Jupyter would skip its kernels' clean-up."""
        if self._relay is not None:
            self._relay.cancel()
        if self._host is not None:
            await asyncio.to_thread(self._host.stop)
