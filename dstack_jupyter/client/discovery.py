"""Finds the engine of a home, or starts one (D5).

Who hosts it is said by ``endpoint.json`` alone, read again after any failed call: a host may have died, handed over, or been
started meanwhile. Nothing is remembered but the home.
"""

from __future__ import annotations

import os
import sys
import time
from http.client import HTTPException

from ..models import endpoint
from ..models.endpoint import API_VERSION
from ..models.errors import EngineUnavailable
from ..models.home import ENV_HOME, Home
from ..processes import ended, spawn_detached
from ..transport import request

START = 20.0
"""Seconds that a new engine may take to answer."""
_started: list[int] = []
"""Engines that this process started and that may have ended since."""

SERVER = 3.0
"""Seconds that a kernel waits for the engine of its own Jupyter server, which may be starting at the same time."""


def alive(home: Home) -> str:
    """The socket of the engine that answers for this home, or ''. Raises EngineUnavailable for another API version."""
    known = endpoint.read(home)
    if known is None:
        return ""
    try:
        info = request(known.socket, "GET", "/info", timeout=5)
    except (OSError, HTTPException):
        return ""
    if info["api_version"] != API_VERSION:
        raise EngineUnavailable(
            f"the engine (pid {info['pid']}) speaks API version {info['api_version']}, this client {API_VERSION}",
            hint="restart the Jupyter server and this kernel, so that both have the same version",
        )
    return known.socket


def server_may_host(home: Home) -> bool:
    """Whether this kernel's Jupyter server told it to expect an engine in this home (it sets the variable for kernels)."""
    named = os.environ.get("DSTACK_JUPYTER_SERVER", "")
    return bool(named) and os.environ.get(ENV_HOME, "") == str(home.root)


def find(home: Home, *, start: bool = True) -> tuple[str, str]:
    """(socket, a line that tells the user what was started or ''). Raises EngineUnavailable."""
    deadline = time.monotonic() + (SERVER if server_may_host(home) else 0)
    while True:
        if socket := alive(home):
            return socket, ""
        if time.monotonic() >= deadline:
            break
        time.sleep(0.05)
    if not start:
        raise EngineUnavailable("no engine runs", hint="any `%dstack` command starts one")
    return _start(home)


def _start(home: Home) -> tuple[str, str]:
    """Spawn an engine, detached: it outlives this kernel. Two clients at once end with one engine: the lease decides."""
    home.create()
    env = {**os.environ, ENV_HOME: str(home.root)}
    for pid in [pid for pid in _started if ended(pid) is not None]:
        _started.remove(pid)
    try:
        pid = spawn_detached([sys.executable, "-m", "dstack_jupyter.engine"], env)
    except OSError as error:
        raise EngineUnavailable(f"the engine could not be started: {error}") from error
    _started.append(pid)
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if socket := alive(home):
            known = endpoint.read(home)
            ours = known is not None and known.pid == pid
            return socket, f"started an engine (pid {pid})" if ours else ""
        if ended(pid) not in (None, 1, -1):  # 1: another engine has the lease, and will answer
            break
        time.sleep(0.02)
    raise EngineUnavailable("the engine could not be started", hint=_last_words(home))


def _last_words(home: Home) -> str:
    try:
        lines = home.engine_log.read_text(errors="replace").splitlines()[-3:]
    except OSError:
        return f"see {home.engine_log}"
    return f"{home.engine_log} ends with: " + " | ".join(lines)
