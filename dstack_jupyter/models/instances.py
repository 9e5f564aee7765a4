"""Machines as they cross the wire, and the guard that ends them. Times are seconds since the epoch, money US dollars."""

from __future__ import annotations

from typing import Literal

from .base import WireModel
from .states import INSTANCE_END, InstanceState


class Guard(WireModel):
    """Which guard ends what costs money when nobody looks (D7)."""

    kind: Literal["none", "engine", "host", "cloud"]
    text: str
    off_is_billed: bool = False
    """Whether a machine that its guard has powered off goes on costing at this vendor."""


OFF, OFF_BILLED = "off", "off, still billed"
"""What is wrong with a machine that is powered off, at vendors that then bill nothing, and at the others."""


class InstanceView(WireModel):
    """One rented machine, from its intent on. What is not known is None."""

    id: str
    identity: str
    """Its name at the vendor."""
    project: str = "main"
    fleet: str
    runs: list[str] = []
    """Names of the runs that it was made for or that are booked on it."""
    backend: str
    region: str = ""
    instance_type: str
    spot: bool = False
    state: InstanceState
    message: str = ""
    """What it does or lacks at the moment."""
    stuck: str = ""
    """What costs money for nothing, as far as is known; '' where all is as it should be."""
    stuck_since: float | None = None
    price: float | None = None
    """Dollars per hour."""
    cost: float | None = 0.0
    """Dollars since the vendor had it."""
    guard: Guard
    user: str = ""
    created_at: float
    rented_at: float | None = None
    """Since when the vendor has it: from then on it costs."""
    ending_at: float | None = None
    finished_at: float | None = None
    console: str = ""
    """A page of the vendor that shows it."""

    @property
    def billed(self) -> bool:
        """Whether it costs money now, as far as is known."""
        return self.state not in INSTANCE_END and self.rented_at is not None and self.stuck != OFF
