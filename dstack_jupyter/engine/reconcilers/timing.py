"""What a round for a rented machine is decided from: its rows, and when this engine last did what is repeated now and then."""

from __future__ import annotations

import asyncio

from ...models.states import InstanceState
from ..steps import instance as steps
from ..store.rented import Rent

START_AGAIN = 30.0
"""Seconds between two words to the vendor to start one that is off."""
VISIT = 300.0
"""Seconds between two words to its guard, which is patient for half an hour at least."""
DELETE_AGAIN = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds until the vendor is asked once more to end one that it still has; the last one repeats, for ever (R3)."""


class Times:
    """What is remembered of an instance between two rounds, to be patient; losing it does no harm. Times are the loop's."""

    __slots__ = ("deleted", "deletes", "looks", "started", "started_for", "starting", "troubles", "visited")

    def __init__(self) -> None:
        self.visited = self.started = self.deleted = -1e9
        self.deletes = self.looks = self.troubles = 0
        self.started_for = ""
        """The attempt for which this engine has it started again; it asks from ``starting`` on."""
        self.starting = 0.0


def now_of(rent: Rent, looked: bool, times: Times, *, restarts: bool) -> steps.Now:
    """``looked``: whether the vendor was asked in this round. ``restarts``: whether it is a ``backends.base.Restarts``."""
    row, state = rent.rented, InstanceState(rent.instance.state)
    loop = asyncio.get_running_loop().time()
    if state is InstanceState.TERMINATING:
        due = loop - times.deleted >= (DELETE_AGAIN[min(times.deletes, len(DELETE_AGAIN)) - 1] if times.deletes else 0.0)
    elif row.seen.get("word") == "stopped":
        due = loop - times.started >= START_AGAIN
    else:
        due = loop - times.visited >= VISIT

    def since(moment: float | None) -> float | None:
        return None if moment is None else rent.now - moment

    return steps.Now(
        state=state,
        known=row.vendor is not None,
        since_asked=since(row.asked_at),
        since_rented=since(row.rented_at),
        since_told=since(row.told_at),
        absent_for=since(row.absent_since),
        ever_seen=row.seen_at is not None,
        word=row.seen.get("word", ""),
        said=row.seen.get("said", ""),
        address=bool(row.seen.get("address")),
        things=any(row.thing for row in rent.things),
        looked=looked,
        due=due,
        restarts=restarts,
        unread=bool(rent.unread),
        since_started=loop - times.starting if rent.unread and rent.unread == times.started_for else None,
    )
