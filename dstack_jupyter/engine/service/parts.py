"""What of the engine the service works with: made by the engine, when it has all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...machines.base import Machine
from ...models.home import Home
from ..jobs.archives import Archives
from ..jobs.forwards import Forwards
from ..keys.vault import Vault
from ..provisioning.offers import Provisioning
from ..runtime.bus import Bus
from ..runtime.problems import Problems
from ..runtime.queue import Key
from ..store.database import Database
from ..store.rows import InstanceRow
from .cleanup import Cleanup
from .fleets import FleetService


@dataclass(frozen=True, slots=True)
class Parts:
    """``submitted`` hears run, fleet and attempts of each new run, ``wake`` adds to the work queue, ``backlog`` tells how much of
    that it has not come to, ``problems`` is the engine's own; ``acts_for`` tells whether a key is handled by this engine,
    ``owner``."""

    database: Database
    bus: Bus
    provisioning: Provisioning
    home: Home
    machine: Callable[[InstanceRow], Machine]
    submitted: Callable[[str, str, Sequence[str]], None]
    owner: str
    acts_for: Callable[[Key], bool]
    archives: Archives
    wake: Callable[[Key], None]
    backlog: Callable[[], int]
    problems: Problems
    forwards: Forwards
    fleets: FleetService
    cleanup: Cleanup
    vault: Vault
