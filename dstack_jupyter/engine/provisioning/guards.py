"""Which guard ends a machine that costs money when nobody looks, in words that a plan shows beforehand (D7)."""

from __future__ import annotations

from ...backends import registry
from ...backends.base import Clouds, Traits
from ...models.durations import format_duration
from ...models.errors import BackendError, NotFound
from ...models.instances import Guard
from ...models.offers import OWN_MACHINES, OfferView
from ...models.stored import Limits
from .orders import guard_times


def traits_of(backend: str, project: str = "main") -> Traits | None:
    """The traits of a vendor; None for a backend without cloud instances, or without an entry now. Calls nobody."""
    if backend in OWN_MACHINES:
        return None
    try:
        loaded = registry.load(backend)
        return loaded.cloud(project).traits if isinstance(loaded, Clouds) else None
    except (BackendError, NotFound):
        return None


def guard_of(offer: OfferView, limits: Limits, traits: Traits | None, kept: str = "") -> Guard:
    """The guard of a machine of this offer. ``traits``: its vendor's; None where there is none, or nobody can tell.

    ``kept``: what the engine does with a machine that outlives its jobs.
    """
    limit = limits.max_duration
    ends = f"a timer beside the job ends it after {format_duration(limit)}" if limit else "nothing ends the job but itself or you"
    if offer.is_own:
        costs = "costs nothing; " if offer.price == 0 else ""
        return Guard(kind="host" if limit else "none", text=f"{costs}{ends}; the machine is yours and left alone")
    if idle := limits.keeps:
        kept = kept or f"the engine ends the machine when it had no job for {format_duration(idle)}; {ends}"
    engine = kept or f"the engine ends the machine when the job has ended; {ends}"
    if traits is None:
        return Guard(kind="engine", text=f"{engine}; without the engine nothing ends the machine")
    timer = _timer(limits)
    if not timer:
        return Guard(
            kind="engine",
            text=f"{engine}; `idle_duration: off`: without the engine nothing ends the machine (engine-only)",
        )
    billed = (
        f"; {offer.backend} bills a machine that is off too, until it is deleted by the engine or by you"
        if traits.stopped_is_billed
        else f"; {offer.backend} does not bill a machine that is off"
    )
    armed = "from its first contact on" if traits.user_data == 0 else "from its first boot on"
    text = f"{engine}; without the engine a timer on the machine, {armed}, powers it off {timer}{billed}"
    return Guard(kind="host", text=text, off_is_billed=traits.stopped_is_billed)


def _timer(limits: Limits) -> str:
    """When the machine's own timer powers it off; '' if nothing is armed. The very numbers that the machine gets."""
    times = guard_times(limits)
    parts = []
    if times["silence"]:
        parts.append(f"after {format_duration(times['silence'])} without a word from the engine and without a job")
    if times["age"]:
        parts.append(f"after {format_duration(times['age'])} in any case")
    return ", or ".join(parts)
