"""The keys that an engine has to look at: after a start, after taking leases, or to learn which engine a key belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, bindparam, select, true

from ...models.states import ATTEMPT_END, FLEET_END, InstanceState, RunState
from ...models.stored import StoredRun
from .columns import now
from .schema import attempts, cloud_instances, fleets, instances, runs


class Work(NamedTuple):
    """A key of the work queue, and the fleet that it belongs to."""

    kind: str
    id: str
    fleet_id: str


def unfinished(connection: Connection, of: Sequence[str] | None = None) -> list[Work]:
    """Everything that is not finished, of all fleets or of some: fleets that rent, runs' attempts, waiting runs, hosts,
    cloud instances.

    Runs that wait come with the highest priority first.
    """

    def among(column: ColumnElement[Any]) -> ColumnElement[bool]:
        return true() if of is None else column.in_(of)

    todo = [
        Work("fleet", row.id, row.id)
        for row in connection.execute(
            select(fleets.c.id).where(fleets.c.state.not_in(FLEET_END), fleets.c.kind != "ssh", among(fleets.c.id))
        )
    ]
    unended = (
        select(attempts.c.id, runs.c.fleet_id)
        .join(runs, runs.c.id == attempts.c.run_id)
        .where(attempts.c.state.not_in(ATTEMPT_END), among(runs.c.fleet_id))
    )
    todo += [Work("attempt", *row) for row in connection.execute(unended)]
    hosts = select(instances.c.id, instances.c.fleet_id).where(
        instances.c.backend == "ssh", instances.c.state != InstanceState.TERMINATED, among(instances.c.fleet_id)
    )
    todo += [Work("host", *row) for row in connection.execute(hosts)]
    renting = (
        select(instances.c.id, instances.c.fleet_id)
        .join(cloud_instances, cloud_instances.c.instance_id == instances.c.id)
        .where(instances.c.state != InstanceState.TERMINATED, among(instances.c.fleet_id))
    )
    todo += [Work("instance", *row) for row in connection.execute(renting)]
    waiting = select(runs.c.id, runs.c.fleet_id, runs.c.configuration).where(
        # A run that was stopped while it waited has no job that would end it.
        runs.c.state.in_([RunState.PENDING, RunState.TERMINATING]),
        among(runs.c.fleet_id),
    )
    rows = sorted(connection.execute(waiting), key=lambda row: -StoredRun(row.configuration).priority)
    return todo + [Work("run", row.id, row.fleet_id) for row in rows]


def just_ended(connection: Connection) -> list[Work]:
    """Attempts on hosts that ended within the hour: something of them may be left there after a crash."""
    query = (
        select(attempts.c.id, runs.c.fleet_id)
        .join(instances, instances.c.id == attempts.c.instance_id)
        .join(runs, runs.c.id == attempts.c.run_id)
        .where(instances.c.backend == "ssh", attempts.c.finished_at > now() - 3600)
    )
    return [Work("attempt", *row) for row in connection.execute(query)]


_OF_ATTEMPT = (
    select(fleets.c.id, fleets.c.state)
    .join(runs, runs.c.fleet_id == fleets.c.id)
    .join(attempts, attempts.c.run_id == runs.c.id)
    .where(attempts.c.id == bindparam("id"))
)
FLEET_OF = {
    "fleet": select(fleets.c.id, fleets.c.state).where(fleets.c.id == bindparam("id")),
    "attempt": _OF_ATTEMPT,
    "guard": _OF_ATTEMPT,
    "run": select(fleets.c.id, fleets.c.state).join(runs, runs.c.fleet_id == fleets.c.id).where(runs.c.id == bindparam("id")),
    "instance": select(fleets.c.id, fleets.c.state)
    .join(instances, instances.c.fleet_id == fleets.c.id)
    .where(instances.c.id == bindparam("id")),
    "host": select(fleets.c.id, fleets.c.state)
    .join(instances, instances.c.fleet_id == fleets.c.id)
    .where(instances.c.id == bindparam("id")),
}


def fleet_of(connection: Connection, kind: str, id: str) -> tuple[str, bool] | None:
    """(the fleet whose lease stands for a key, whether it has ended); None for a key that the store does not know."""
    row = connection.execute(FLEET_OF[kind], {"id": id}).one_or_none()
    return None if row is None else (row.id, row.state in FLEET_END)
