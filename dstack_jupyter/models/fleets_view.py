"""Fleets as they cross the wire. Times are seconds since the epoch."""

from __future__ import annotations

from typing import Any, Literal

from .base import WireModel
from .offers import Missing, OfferView
from .states import FleetState, InstanceState


class HostView(WireModel):
    """One machine of a fleet. ``message`` says why it cannot be used, and what to do; '' when it can.

    ``hostname`` is the name of a rented machine at its vendor.
    """

    id: str
    hostname: str
    state: InstanceState
    message: str = ""
    backend: str = "ssh"
    region: str = ""
    instance_type: str = ""
    price: float | None = None
    """Dollars per hour of a rented one."""
    cpus: float | None = 0.0
    memory_gb: float | None = 0.0
    disk_gb: float | None = 0.0
    gpu_vendor: str = ""
    gpu_name: str = ""
    gpu_count: int = 0
    gpu_memory_gb: float | None = 0.0
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
    kind: Literal["ssh", "cloud"] = "ssh"
    user: str = ""
    created_at: float
    hosts: list[HostView] = []
    nodes: dict[str, int | None] = {}
    """``min``, ``target`` and ``max`` of a fleet of clouds' machines."""
    message: str = ""
    """Why it has fewer machines than it is to have, where no offer could be had."""
    configuration: dict[str, Any] = {}


class FleetPlan(WireModel):
    """What applying a fleet of clouds' machines would do, without doing it."""

    name: str
    active: bool = False
    """Whether there is one of that name: then it is changed."""
    offers: list[OfferView] = []
    total_offers: int = 0
    missing: list[Missing] = []
    more: int = 0
    """Machines that are rented at once."""
    price: float | None = 0.0
    """Dollars per hour of these at the cheapest offer; None when that is not known."""
    notes: list[str] = []


class FleetRequest(WireModel):
    configuration: dict[str, Any]
    project: str = "main"
    base: str = ""
    """The folder that relative paths of keys begin at."""
