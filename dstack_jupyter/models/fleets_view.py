"""Fleets as they cross the wire. Times are seconds since the epoch."""

from __future__ import annotations

from typing import Any

from .base import WireModel
from .states import FleetState, InstanceState


class HostView(WireModel):
    """One machine of a fleet. ``message`` says why it cannot be used, and what to do; '' when it can."""

    id: str
    hostname: str
    state: InstanceState
    message: str = ""
    cpus: float = 0.0
    memory_gb: float = 0.0
    disk_gb: float = 0.0
    gpu_vendor: str = ""
    gpu_name: str = ""
    gpu_count: int = 0
    gpu_memory_gb: float = 0.0
    cpu_arch: str = ""
    docker: bool = False
    blocks: int = 1
    busy_blocks: int = 0
    runs: list[str] = []
    host_key: str = ""
    """Fingerprint of the host key that is pinned; it was taken on first contact."""
    notes: list[str] = []


class FleetView(WireModel):
    id: str
    project: str
    name: str
    state: FleetState
    kind: str = "ssh"
    user: str = ""
    created_at: float
    hosts: list[HostView] = []
    configuration: dict[str, Any] = {}


class FleetRequest(WireModel):
    configuration: dict[str, Any]
    project: str = "main"
    base: str = ""
    """The folder that relative paths of keys begin at."""
