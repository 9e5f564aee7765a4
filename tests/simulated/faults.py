"""Machines at a simulated vendor, and what goes wrong there."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class VM:
    """A machine at the vendor. Times are of the world; what is not ``gone`` costs money, whatever its state."""

    identity: str
    made: float
    gone: float | None = None
    number: int = 0
    place: str = ""
    asked: float = 0.0
    """When the create was sent that made it."""
    off: bool = False
    """It powered itself off, or was stopped."""
    on_since: float = 0.0
    """When it was last switched on."""
    ending: bool = False
    """The vendor ends it: it lives for a while yet, and is found again at ``flickers_until``."""
    flickers_until: float = 0.0
    lost: bool = False
    """It went by itself, and whatever it had not told with it."""
    dead: bool = False
    """It never answers."""
    bad_boot: bool = False
    """Its first boot fails."""
    twin: bool = False
    """A second one of one create, or one that came back: the vendor's own fault."""


@dataclass
class Faults:
    """What goes wrong at the vendor. Numbers count the next calls that it happens to; times are of the world."""

    sold_out: set[str] = field(default_factory=set)
    """`region type` of offers that cannot be had."""
    sold_out_after: dict[str, int] = field(default_factory=dict)
    """So many more machines of an offer can be had."""
    lost_answers: int = 0
    """Creates that take effect and are not answered."""
    late_creates: int = 0
    """Creates that are not answered and take effect ``late_by`` seconds later."""
    late_by: float = 8.0
    refused: int = 0
    """Creates that the vendor does not accept as they are."""
    twins: int = 0
    """Creates that make two machines of one identity and are not answered."""
    hidden_for: float = 0.0
    """Seconds for which a new machine is in no answer."""
    flicker_until: float = 0.0
    """Until then nothing is found."""
    wrong_key_until: float = 0.0
    another_account_until: float = 0.0
    """Until then the key that is configured is of an account that has nothing."""
    renewed_key: bool = False
    """The key that is configured is a new one of the same account."""
    unreachable_until: float = 0.0
    """Until then nothing can be sent to the vendor."""
    limited: int = 0
    broken: int = 0
    """Calls that are answered by an error from which nothing can be concluded; nothing was done."""
    lost_things: int = 0
    """Attaches that take effect and are not answered."""
    lost_disks: int = 0
    """The same, of what is attached for one machine alone."""
    no_room: int = 0
    """Attaches for which the account has no quota."""
    busy: int = 0
    """Deletes that are refused."""
    held: int = 0
    """Things that cannot be taken away yet."""
    lost_deletes: int = 0
    """Deletes that take effect and are not answered."""
    ignored_deletes: int = 0
    """Deletes that are accepted and come to nothing."""
    lingers: float = 0.0
    """Seconds from an accepted delete to the end."""
    flickers_at_the_end: float = 0.0
    """Seconds after an accepted delete in which a machine that lingers is not found."""
    returns: int = 0
    """Machines that are gone, and are there again half a minute later."""
    stays_off: int = 0
    """Starts that are accepted and come to nothing."""
    no_way: int = 0
    """Starts that the network takes nowhere."""
    no_starts: int = 0
    """Starts that the vendor refuses for good."""
    not_yet: int = 0
    """Starts that are refused in a machine's present state."""
    dead_on_arrival: int = 0
    """Machines that never answer."""
    bad_boots: int = 0
    """Machines whose first boot fails."""
    over: float = 0.0
    """When a call last failed."""
