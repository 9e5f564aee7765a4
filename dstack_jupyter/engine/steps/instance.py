"""What to do next about a rented machine: a pure function of what is stored and what was seen (D4).

Called by the instance reconciler after each act, with nothing remembered in between but whether the vendor was asked in this
round: recovery after a crash is the same call. No deadline ends a machine in our books: only the vendor's word does (R3).
"""

from __future__ import annotations

from dataclasses import dataclass

from ...backends.base import InstanceStatus, Traits
from ...models.states import InstanceState

FLICKER = 60.0
"""Seconds for which a vendor must say 'not found' before that is more than a flicker."""
YOUNG_FLICKER = 120.0
"""The same for a machine that was seen and is younger than ``Traits.absent_after``."""
GONE = 3.0
"""The same for a machine that the vendor accepted to end: it is asked twice at least."""
STARTS = 300.0
"""Seconds within which one that is off must be on, once it was asked for; then it is given up."""
OFF_AT_FIRST = 60.0
"""Seconds after its making in which a machine may be off without that meaning anything."""


@dataclass(frozen=True, slots=True)
class Observation:
    """A rented instance. Times are seconds since that moment; None: it has not come."""

    state: InstanceState
    known: bool = False
    """Whether the vendor has told of it: its calls can be made."""
    since_create_sent: float | None = None
    since_rented: float | None = None
    since_delete_accepted: float | None = None
    absent_for: float | None = None
    ever_seen: bool = False
    status: InstanceStatus | str = ""
    raw_status: str = ""
    address: bool = False
    resources: bool = False
    looked: bool = False
    """Whether the vendor was asked in this round: what is stored is fresh."""
    due: bool = False
    """Whether it is time for what is repeated now and then: a word to the machine, another start, another delete."""
    restarts: bool = False
    """Whether the vendor starts a machine that is off, with all that was on it."""
    unread: bool = False
    """Whether a job that is wanted has the machine: what it printed, and how it ended, is not all known."""
    since_started: float | None = None
    """Since this engine first asked the vendor to start it for that job."""


@dataclass(frozen=True, slots=True)
class Create:
    """Send the create. ``first``: none was ever sent."""

    first: bool


@dataclass(frozen=True, slots=True)
class Find:
    """Look for it by its identity: what became of a create is not known."""


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the vendor for it."""


@dataclass(frozen=True, slots=True)
class Meet:
    """Log in and see whether its first boot is done."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Give it a word from us, which keeps its guard quiet."""


@dataclass(frozen=True, slots=True)
class Start:
    """Ask the vendor to switch it on again, to read what its job left."""


@dataclass(frozen=True, slots=True)
class LetGo:
    """It is to be ended, since it is of no use."""

    why: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Ask the vendor to end it."""


@dataclass(frozen=True, slots=True)
class Gone:
    """It has ended, or never was."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Detach:
    """Take away what was attached for it alone."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before the vendor or the machine has gone on. The reconciler knows how soon to look again."""


Step = Create | Find | Look | Meet | Heartbeat | Start | LetGo | Delete | Gone | Detach | Wait


def next_step(now: Observation, traits: Traits) -> Step:
    match now.state:
        case InstanceState.PENDING:
            return _intent(now, traits)
        case InstanceState.PROVISIONING:
            return _provisioning(now, traits)
        case InstanceState.IDLE | InstanceState.BUSY:
            return _in_use(now, traits)
        case InstanceState.TERMINATING:
            return _ending(now, traits)
        case InstanceState.TERMINATED:
            return Detach() if now.resources else Wait()


def _settled(now: Observation, traits: Traits) -> bool:
    """Whether a create of unknown outcome has surely made nothing: absent for as long as a machine may take to appear."""
    return now.absent_for is not None and now.since_create_sent is not None and now.since_create_sent >= traits.settles


def _intent(now: Observation, traits: Traits) -> Step:
    if now.since_create_sent is None:
        return Create(first=True)
    if not now.looked:
        return Find()
    if traits.resend != "look" or _settled(now, traits):
        return Create(first=False)
    return Wait()


def _lost(now: Observation, traits: Traits) -> str:
    """Why a machine that we use is none any more; '' while it may be one. Losing sight is not death (R8)."""
    age = now.since_rented or 0.0
    if now.absent_for is not None:
        if age >= traits.absent_after and now.absent_for >= FLICKER:
            return "the vendor has no such machine any more"
        if now.ever_seen and now.absent_for >= YOUNG_FLICKER:
            return "the vendor has no such machine any more"
    elif now.status == "ending" or _off(now):
        return f"the vendor says that it is {now.raw_status or now.status}"
    return ""


def _off(now: Observation) -> bool:
    return now.status == "stopped" and now.absent_for is None and (now.since_rented or 0.0) >= OFF_AT_FIRST


def _readable(now: Observation) -> bool:
    """Whether it is off and holds what nobody has read, which it gives up when it is on again. Once for each job and engine: one
    that was away for so long that the machine powered itself off again leaves that to the next."""
    return _off(now) and now.restarts and now.unread and (now.since_started is None or now.since_started < STARTS)


def _provisioning(now: Observation, traits: Traits) -> Step:
    if not now.looked:
        return Look()
    if why := _lost(now, traits):
        return LetGo(why)
    if (now.since_rented or 0.0) > traits.ready_within:
        return LetGo(f"it could not be used within {traits.ready_within:.0f} s")
    if now.status == "running" and now.address and now.absent_for is None:
        return Meet()
    return Wait()


def _in_use(now: Observation, traits: Traits) -> Step:
    if not now.looked:
        return Look()
    if _readable(now):
        return Start() if now.due else Wait()
    if why := _lost(now, traits):
        return LetGo(why)
    return Heartbeat() if now.due and now.absent_for is None and now.status != "stopped" else Wait()


def _ending(now: Observation, traits: Traits) -> Step:
    if not now.known:
        if now.since_create_sent is None:
            return Gone()
        if not now.looked:
            return Find()
        return Gone() if _settled(now, traits) else Wait()
    if now.due:
        return Delete()
    if not now.looked:
        return Look()
    if now.absent_for is None:
        return Wait()
    if now.since_delete_accepted is not None:
        # It accepted to end it, so it knew it; now it has none, and not for a moment only: what lingers costs.
        return Gone() if now.absent_for >= GONE else Wait()
    return Gone() if (now.since_rented or 0.0) >= traits.absent_after and now.absent_for >= FLICKER else Wait()
