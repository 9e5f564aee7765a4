"""The observation for a round of a cloud instance: its rows, and when this engine last did each repeated act."""

from __future__ import annotations

import asyncio

from ...models.states import InstanceState
from ..steps import instance as steps
from ..store.cloud_instances import CloudInstance

START_AGAIN = 30.0
"""Seconds between two calls that ask the vendor to start a stopped machine."""
HEARTBEAT = 300.0
"""Seconds between two heartbeats. The guard on the machine waits for half an hour at least."""
DELETE_AGAIN = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds until the engine asks the vendor again to end a machine; the last number repeats for ever (R3)."""


class Times:
    """When an instance's acts were last done, in the loop's time. Losing this does no harm."""

    __slots__ = ("deleted", "deletes", "heartbeat_at", "looks", "started", "started_for", "starting", "troubles")

    def __init__(self) -> None:
        self.heartbeat_at = self.started = self.deleted = -1e9
        self.deletes = self.looks = self.troubles = 0
        self.started_for = ""
        """The attempt for which this engine starts the machine again, from ``starting`` on."""
        self.starting = 0.0


def now_of(machine: CloudInstance, looked: bool, times: Times, *, restarts: bool) -> steps.Observation:
    """``looked``: the vendor was asked in this round. ``restarts``: the cloud is a ``backends.base.Restarts``."""
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
