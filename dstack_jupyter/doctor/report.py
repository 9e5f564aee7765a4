"""One page on this installation."""

from __future__ import annotations

import sys

from ..client import Client
from ..models.errors import DstackJupyterError
from ..models.findings import Finding, finding
from ..models.home import Home
from . import environment, files, host

NOT_ASKED = "store, key, clock, hosts and work were not looked at: only the engine can"


def examine(home: Home, *, start: bool = True) -> list[Finding]:
    """All findings. ``start``: begin an engine if none runs, as every command does. A broken engine is a finding, no error."""
    findings = [files.place(home), *files.permissions(home), files.space(home)]
    findings += [environment.python(), *environment.packages(), environment.extension()]
    if mute := host.mute(home):
        return [*mute, *findings, finding("engine", None, NOT_ASKED)]
    before = host.examine(home)
    try:
        client = Client(home, start=start)
        inner = client.doctor()  # first: it makes the engine open its store, and that may go well now
        return [*host.examine(home), *host.describe(home, client.info(), sys.executable), *findings, *inner]
    except DstackJupyterError as error:
        fault = [finding("engine", False, error.message, error.hint)] if start or not before else []
        return [*before, *fault, *findings, finding("engine", None, NOT_ASKED)]
