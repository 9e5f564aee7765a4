"""Which offer is tried next: a pure function of the offers, cheapest first, and of what was tried for these attempts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ...models.offers import UNAVAILABLE, OfferView

MOST_TRIES = 25
"""Offers that one submission of a run tries, at most."""
MOST_TOLD = 6
"""Different outcomes that the last word on them names."""


@dataclass(frozen=True, slots=True)
class Try:
    """An offer that was tried for one of a run's present attempts, or for a fleet. ``alive``: there may be a machine of it.

    ``verdict`` is ``account`` where it failed for what holds for every offer of that backend; ``message`` says what came of it.
    ``used``: a run has its machine, and does not move.
    """

    offer: OfferView
    alive: bool
    verdict: str = ""
    message: str = ""
    used: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """``offer`` None: nothing is left. ``release``: why the machines that the other nodes have must go first."""

    offer: OfferView | None = None
    release: str = ""


def left(offers: Sequence[OfferView], tries: Sequence[Try]) -> list[OfferView]:
    """What can still be tried. An offer that one node has is good for another; one that failed for any is not."""
    failed = [each for each in tries if not each.alive]
    gone = {each.offer.key for each in failed}
    closed = {each.offer.backend for each in failed if each.verdict == "account"}
    return [
        offer
        for offer in offers
        if offer.availability not in UNAVAILABLE and offer.backend not in closed and offer.key not in gone
    ]


def choose(offers: Sequence[OfferView], tries: Sequence[Try], *, nodes: int = 1) -> Choice:
    """The next offer. The nodes of a run are in one region of one backend; where that has no more, all of them move."""
    if sum(not each.alive for each in tries) >= MOST_TRIES * nodes:
        return Choice()
    remaining = left(offers, tries)
    there = next((each.offer for each in tries if each.alive), None)
    if there is None:
        return Choice(remaining[0]) if remaining else Choice()
    near = [offer for offer in remaining if (offer.backend, offer.region) == (there.backend, there.region)]
    if near:
        return Choice(near[0])
    if remaining:
        return Choice(release=f"not every node found a machine in {there.region or there.backend}")
    return Choice()


def nothing_left(tries: Sequence[Try], reasons: Sequence[str]) -> str:
    """What the user is told when there is nothing more to try. ``reasons`` are those of backends that had no offer."""
    if not tries:
        return f"no offer fits ({'; '.join(reasons) or 'no backend has an offer'})"
    counted = Counter(each.message for each in tries if not each.alive)
    told = [f"{count} × {what}" if count > 1 else what for what, count in counted.most_common(MOST_TOLD)]
    if (others := counted.total() - sum(count for _, count in counted.most_common(MOST_TOLD))) > 0:
        told.append(f"{others} for other reasons")
    count = counted.total()
    none = (
        f"none of the {count} offers that were tried could be had"
        if count > 1
        else "the one offer that was tried could not be had"
    )
    return f"{none}: {'; '.join([*told, *reasons])}"
