"""What cloud instances are and cost, out of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, func, select

from ...models.instances import Guard, InstanceView
from ...models.states import INSTANCE_END, InstanceState
from ..steps import costs
from .columns import among, now
from .schema import attempts, bookings, cloud_instances, fleets, instances, runs

RECENT = 86400.0
"""Seconds for which a machine that has ended is still listed with ``all``."""
OF_CLOUD = [
    cloud_instances.c[name] for name in ("create_sent_at", "rented_at", "observed_at", "absent_since", "ending_at", "observed")
]
MACHINES = select(instances, *OF_CLOUD, now().label("current")).outerjoin(
    cloud_instances, cloud_instances.c.instance_id == instances.c.id
)
"""Instances of any kind; the columns of ``cloud_instances`` are None for others than cloud instances."""
LISTED = (
    select(
        instances,
        *OF_CLOUD,
        now().label("current"),
        fleets.c.name.label("fleet_name"),
        runs.c.name.label("run_name"),
        func.coalesce(runs.c.user, fleets.c.user).label("user"),
    )
    .join(cloud_instances, cloud_instances.c.instance_id == instances.c.id)
    .join(fleets, fleets.c.id == instances.c.fleet_id)
    .outerjoin(runs, runs.c.id == fleets.c.run_id)
)
"""Rented instances, with the run whose own fleet they are in, if it is one's."""
BOOKED = (
    select(bookings.c.instance_id, runs.c.name)
    .join(attempts, attempts.c.id == bookings.c.attempt_id)
    .join(runs, runs.c.id == attempts.c.run_id)
    .distinct()
)


def machines(connection: Connection, project: str, *, all: bool = False) -> list[InstanceView]:
    """The cloud instances of a project, oldest first: those that have not ended, with ``all`` those of the last day too.

    Two statements, however many there are. '' is every project.
    """
    wanted = ~among(instances.c.state, INSTANCE_END)
    if all:
        wanted |= instances.c.finished_at > now() - RECENT
    query = LISTED.where(wanted)
    if project:
        query = query.where(instances.c.project == project)
    rows = connection.execute(query.order_by(instances.c.created_at, instances.c.id)).all()
    names: dict[str, list[str]] = {}
    fleets_of_users = [row.id for row in rows if row.run_name is None]
    if fleets_of_users:
        for instance_id, name in connection.execute(
            BOOKED.where(bookings.c.instance_id.in_(fleets_of_users)).order_by(runs.c.name)
        ):
            names.setdefault(instance_id, []).append(name)
    return [
        view(row, row.fleet_name, names.get(row.id, []) if row.run_name is None else [row.run_name], row.user) for row in rows
    ]


def lives(row: Row[Any]) -> bool:
    """Whether a row of ``MACHINES`` is a cloud instance that has not ended."""
    return row.observed is not None and row.state not in INSTANCE_END


def in_vain(row: Row[Any]) -> bool:
    """Whether a row of ``MACHINES`` is a cloud instance that ended before it could have a job."""
    return row.observed is not None and row.state in INSTANCE_END and row.started_at is None


def tried(row: Row[Any], why: str) -> str:
    """What came of an offer, in a sentence."""
    place = f" in {row.region}" if row.region else ""
    return f"tried {row.instance_type}{place} ({row.backend}): {why}"


def cost(row: Row[Any]) -> float | None:
    """What an instance has cost by now; others than cloud instances cost nothing that we know of."""
    if row.observed is None:
        return 0.0
    return costs.cost(row.price, row.rented_at, row.finished_at or row.current)


def of_run(own: Sequence[Row[Any]], tries: Sequence[Row[Any]], by_id: Mapping[str, Row[Any]]) -> float | None:
    """What a run has cost by now: its own fleet's machines, every try included, and its share of others.

    ``tries`` are rows of its attempts. A machine of another fleet counts for as long as the run's job had it.
    """
    mine = {row.id for row in own}
    amounts = [cost(row) for row in own]
    for attempt in tries:
        row = by_id.get(attempt.instance_id)
        if row is not None and row.id not in mine and row.observed is not None:
            amounts.append(costs.cost(row.price, attempt.started_at, attempt.finished_at or row.finished_at or row.current))
    return costs.total(amounts)


def view(row: Row[Any], fleet: str, names: list[str], user: str) -> InstanceView:
    """A cloud instance as users see it."""
    guard = Guard(**row.guard)
    state = InstanceState(row.state)
    wrong, since = costs.stuck(
        state=state,
        status=row.observed.get("status", ""),
        guard=guard,
        now=row.current,
        create_sent_at=row.create_sent_at,
        rented_at=row.rented_at,
        observed_at=row.observed_at,
        ending_at=row.ending_at,
        absent=row.absent_since is not None,
    )
    return InstanceView(
        id=row.id,
        identity=row.identity,
        project=row.project,
        fleet=fleet,
        runs=names,
        backend=row.backend,
        region=row.region or row.observed.get("region", ""),
        instance_type=row.instance_type,
        spot=bool(row.offer.get("spot")),
        state=state,
        message=row.message,
        stuck=wrong,
        stuck_since=since,
        price=row.price,
        cost=cost(row),
        guard=guard,
        user=user,
        created_at=row.created_at,
        rented_at=row.rented_at,
        ending_at=row.ending_at,
        finished_at=row.finished_at,
        console=row.observed.get("console", ""),
    )
