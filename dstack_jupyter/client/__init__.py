"""The client side: ``connect()`` finds or starts the engine of this user and gives a ``Client``."""

from __future__ import annotations

from ..models.home import Home
from .client import Client
from .log import Log
from .run import Run

__all__ = ["Client", "Log", "Run", "connect"]

_clients: dict[Home, Client] = {}


def connect(home: Home | None = None, *, start: bool = True) -> Client:
    """The client of ``home`` (the user's own by default). Nothing is contacted before the first call.

    ``start`` False never starts an engine: calls then raise EngineUnavailable where none runs.
    """
    home = home or Home.default()
    if not start:
        return Client(home, start=False)
    if home not in _clients:
        _clients[home] = Client(home)
    return _clients[home]
