"""What all who deal with fleets work with: the two reconcilers of fleets, and the service for what users ask of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..provisioning.offers import Provisioning
from ..runtime.bus import Bus
from ..runtime.queue import Key
from ..store.database import Database


@dataclass(frozen=True, slots=True)
class FleetParts:
    """``wake`` adds to the work queue, ``closed`` hears of each fleet that is done, ``hosts_changed`` when machines that runs
    share were booked, or can be used that could not before."""

    database: Database
    bus: Bus
    provisioning: Provisioning
    installation: str
    wake: Callable[[Key], None]
    closed: Callable[[str], None]
    hosts_changed: Callable[[], None]


class FleetHandler:
    """What both reconcilers of fleets begin with."""

    def __init__(self, parts: FleetParts) -> None:
        self._database = parts.database
        self._bus = parts.bus
        self._provisioning = parts.provisioning
        self._installation = parts.installation
        self._wake = parts.wake
        self._closed = parts.closed
        self._hosts_changed = parts.hosts_changed
