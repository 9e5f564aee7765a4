"""What the two reconcilers of fleets and the service of fleets share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..provisioning.offers import Provisioning
from ..runtime.bus import Bus
from ..runtime.queue import Key
from ..store.database import Database


@dataclass(frozen=True, slots=True)
class FleetParts:
    """``wake`` adds to the work queue. ``closed`` is called for each fleet that is gone, ``hosts_changed`` when shared machines
    were booked or became usable."""

    database: Database
    bus: Bus
    provisioning: Provisioning
    installation: str
    wake: Callable[[Key], None]
    closed: Callable[[str], None]
    hosts_changed: Callable[[], None]


class FleetHandler:
    """The base of both reconcilers of fleets."""

    def __init__(self, parts: FleetParts) -> None:
        self._database = parts.database
        self._bus = parts.bus
        self._provisioning = parts.provisioning
        self._installation = parts.installation
        self._wake = parts.wake
        self._closed = parts.closed
        self._hosts_changed = parts.hosts_changed
