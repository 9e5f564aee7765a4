"""What a round for a rented machine is decided from: its rows, and when this engine last did what is repeated now and then."""

from __future__ import annotations

import asyncio

from ...models.states import InstanceState
from ..steps import instance as steps
from ..store.cloud_instances import CloudInstance

START_AGAIN = 30.0
"""Seconds between two words to the vendor to start one that is off."""
HEARTBEAT = 300.0
"""Seconds between two words to its guard, which is patient for half an hour at least."""
DELETE_AGAIN = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds until the vendor is asked once more to end one that it still has; the last one repeats, for ever (R3)."""


class Times:
    """What is remembered of an instance between two rounds, to be patient; losing it does no harm. Times are the loop's."""

    __slots__ = ("deleted", "deletes", "heartbeat_at", "looks", "started", "started_for", "starting", "troubles")

    def __init__(self) -> None:
        self.heartbeat_at = self.started = self.deleted = -1e9
        self.deletes = self.looks = self.troubles = 0
        self.started_for = ""
        """The attempt for which this engine has it started again; it asks from ``starting`` on."""
        self.starting = 0.0


def now_of(machine: CloudInstance, looked: bool, times: Times, *, restarts: bool) -> steps.Observation:
    """``looked``: whether the vendor was asked in this round. ``restarts``: whether it is a ``backends.base.Restarts``."""
    row, state = machine.cloud, machine.instance.state
    loop = asyncio.get_running_loop().time()
    if state is InstanceState.TERMINATING:
        due = loop - times.deleted >= (DELETE_AGAIN[min(times.deletes, len(DELETE_AGAIN)) - 1] if times.deletes else 0.0)
    elif row.observed.status == "stopped":
        due = loop - times.started >= START_AGAIN
    else:
        due = loop - times.heartbeat_at >= HEARTBEAT

    def since(moment: float | None) -> float | None:
        return None if moment is None else machine.now - moment

    return steps.Observation(
        state=state,
        known=row.vendor is not None,
        since_create_sent=since(row.create_sent_at),
        since_rented=since(row.rented_at),
        since_delete_accepted=since(row.delete_accepted_at),
        absent_for=since(row.absent_since),
        ever_seen=row.observed_at is not None,
        status=row.observed.status,
        raw_status=row.observed.raw_status,
        address=bool(row.observed.address),
        resources=any(row.resource_id for row in machine.resources),
        looked=looked,
        due=due,
        restarts=restarts,
        unread=bool(machine.unread),
        since_started=loop - times.starting if machine.unread and machine.unread == times.started_for else None,
    )
