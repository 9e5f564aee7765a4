"""Where an engine is: processes that it starts on its machine belong to that machine and home, and to no other engine."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path

from ...models.home import Home

MACHINE_ID = Path("/etc/machine-id")


def place_of(home: Home) -> str:
    """``<16 hexadecimal digits> <host name>``: the digits stay when the machine is renamed, the name is for people."""
    try:
        machine = MACHINE_ID.read_text().strip()
    except OSError:
        machine = ""
    digest = hashlib.sha256(f"{machine or socket.gethostname()} {home.installation()}".encode()).hexdigest()
    return f"{digest[:16]} {socket.gethostname()[:100]}"


def same(one: str, other: str) -> bool:
    return one[:16] == other[:16]


def name_of(place: str) -> str:
    """What people call a place."""
    return place[17:] or "another machine"
