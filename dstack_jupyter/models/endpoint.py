"""How a client finds the engine: a 0600 file in the state folder that names a unix socket."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass

from .home import Home, write_private

API_VERSION = 1
API_ROOT = "/dstack_jupyter/api/v1"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an engine's host listens. ``host`` is ``server`` (a Jupyter server) or ``process``."""

    pid: int
    socket: str
    host: str
    started: float
    api_version: int = API_VERSION

    def write(self, home: Home) -> None:
        write_private(home.endpoint, json.dumps(asdict(self)).encode())

    def remove(self, home: Home) -> None:
        """Take it back, unless somebody else's stands there by now."""
        if read(home) == self:
            home.endpoint.unlink(missing_ok=True)


def read(home: Home) -> Endpoint | None:
    """The endpoint of this home; None if there is none, or if its process is gone."""
    try:
        endpoint = Endpoint(**json.loads(home.endpoint.read_bytes()))
        os.kill(endpoint.pid, 0)
    except (OSError, ValueError, TypeError):
        return None
    return endpoint
