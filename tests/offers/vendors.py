"""A vendor with a price list behind a real socket, and a backend that asks it: slow, dead, wrong or well, as a test wants."""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from dstack_jupyter.backends import registry
from dstack_jupyter.backends.base import Columns, Feed
from dstack_jupyter.models.errors import BackendError, BackendNotAvailable
from dstack_jupyter.models.offers import OfferView

MODULE = "vendors_of_tests"


def row(backend: str, **more: Any) -> dict[str, Any]:
    found = {"backend": backend, "region": "moon", "instance_type": "gpu-1", "cpus": 8, "memory_gb": 64, "disk_gb": 500}
    found |= {"gpu_vendor": "nvidia", "gpu_name": "H100", "gpu_count": 8, "gpu_memory_gb": 80, "cpu_arch": "x86", "price": 20.5}
    return found | {"availability": "available", "source": "test"} | more


def columns(*rows: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [each[name] for each in rows] for name in rows[0]}


class VendorBackend:
    """A backend of a program's own. Subclasses name it; the environment says where its vendor is, and which account is used."""

    name: ClassVar[str] = ""
    feed = Feed(fresh=300.0, deadline=1.0)

    def account(self) -> str:
        account = os.environ.get(f"VENDOR_{self.name.upper()}_ACCOUNT", "one")
        if account == "none":
            raise BackendNotAvailable(f"{self.name} is not configured", hint=f"`%dstack configure {self.name}`")
        return account

    def offers(self) -> Columns:
        port = int(os.environ[f"VENDOR_{self.name.upper()}_PORT"])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request("GET", f"/offers?account={self.account()}")
            response = connection.getresponse()
            if response.status != 200:
                raise BackendError(f"the key is not valid ({response.status})", hint="make a new one")
            found: Columns = json.loads(response.read())
            return found
        finally:
            connection.close()

    def check(self) -> list[Any]:
        return []

    def create_instance(self, identity: str, offer: OfferView) -> dict[str, Any]:
        raise BackendError("not here")

    def terminate_instance(self, identity: str, data: dict[str, Any]) -> None:
        raise BackendError("not here")


@dataclass
class Vendor:
    """The vendor's side. ``answer`` is what it says; ``gate``: it answers once that is set."""

    port: int
    answer: Any = None
    status: int = 200
    gate: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)
    most_at_once: int = 0


@contextmanager
def vendor(name: str, *rows: dict[str, Any], feed: Feed | None = None, answers: bool = True) -> Iterator[Vendor]:
    """A vendor that is registered as the backend ``name``."""
    lock, now = threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                found.asked.append(self.path)
                now[0] += 1
                found.most_at_once = max(found.most_at_once, now[0])
            found.gate.wait(30)
            with lock:
                now[0] -= 1
            body = json.dumps(found.answer).encode()
            self.send_response(found.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Vendor(server.server_port, columns(*rows) if rows else None)
    if answers:
        found.gate.set()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    members = {"name": name} | ({} if feed is None else {"feed": feed})
    module = sys.modules.setdefault(MODULE, types.ModuleType(MODULE))
    setattr(module, name.title(), type(name.title(), (VendorBackend,), members))
    os.environ[f"VENDOR_{name.upper()}_PORT"] = str(found.port)
    registry.register(name, registry.Entry(name.title(), "vm", f"{MODULE}:{name.title()}"))
    try:
        yield found
    finally:
        found.gate.set()
        registry.unregister(name)
        os.environ.pop(f"VENDOR_{name.upper()}_PORT", None)
        server.shutdown()
        server.server_close()
