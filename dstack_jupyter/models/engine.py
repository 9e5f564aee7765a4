"""What an engine tells of itself, and the lines of its event log."""

from __future__ import annotations

from typing import Literal

from .base import WireModel


class EventView(WireModel):
    """One line of the event log: who did what to which resource, when, and why."""

    seq: int
    at: float
    actor: str
    kind: str
    id: str
    name: str = ""
    project: str = "main"
    action: str
    message: str = ""


class EngineInfo(WireModel):
    api_version: int
    version: str
    pid: int
    host: Literal["server", "process"]
    """Who hosts the engine: a Jupyter server, or a process of its own."""
    home: str
    installation: str
    python: str = ""
    """The interpreter that the engine runs on."""
    started_at: float
    store_open: bool = False
    unfinished_runs: int = 0
    problems: list[str] = []
