"""Offers as they cross the wire: one row of the table, and the backends that have none.

Prices are dollars per hour.
"""

from __future__ import annotations

from .base import WireModel


class OfferView(WireModel):
    """One row of the offers table, with the column names of the DataFrame (design §4). A number that is not known is None."""

    backend: str
    region: str = ""
    zone: str = ""
    instance_type: str
    cpus: float | None
    memory_gb: float | None
    disk_gb: float | None
    gpu_vendor: str = ""
    gpu_name: str = ""
    gpu_count: int = 0
    gpu_memory_gb: float | None = 0.0
    cpu_arch: str = ""
    spot: bool = False
    price: float | None
    """Dollars per hour; None where the vendor does not tell. It never counts as free, and never passes ``max_price``."""
    availability: str = "available"
    reason: str = ""
    source: str = ""
    price_date: str = ""
    blocks: int = 1
    """Free blocks of a host that is shared by jobs."""
    total_blocks: int = 1


OWN_MACHINES = ("local", "ssh")
"""Backends whose machines are there already: none is rented, and the defaults of cpu, memory and disk do not filter them."""


UNAVAILABLE = frozenset({"not_available", "no_quota", "no_balance", "busy"})
"""Availabilities of offers that cannot be had now: they are shown last, with the reason."""


NOT_AVAILABLE_YET = "not available yet"
"""The reason of a backend that this version knows by name only."""


class Missing(WireModel):
    """A backend that has no row, and why."""

    backend: str
    reason: str
    hint: str = ""
