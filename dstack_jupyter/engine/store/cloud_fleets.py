"""Fleets of cloud instances in the store: applied, grown, ended. Runs book their machines as they book hosts.

A machine that no attempt was made for (``instances.attempt_id`` NULL) is shared: whoever ends a shared machine
proves in the same transaction that no attempt has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ...models.errors import Conflict
from ...models.fleets import NodesRange
from ...models.instances import Guard
from ...models.offers import OfferView
from ...models.states import FLEET_END, FleetState, InstanceState
from . import bookings, cloud_instances, events, leases, moves
from .columns import among, now
from .rows import FleetRow, InstanceRow, fleet_row, instance_row
from .schema import bookings as booked
from .schema import cloud_instances as rents
from .schema import fleets, instances

FORGETS = 600.0
"""Seconds after which an offer that failed is tried for a fleet again."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A fleet as the store has it. ``machines``: the oldest first; of those that are gone, the ones that were once ready and the
    ones that failed a short while ago. ``now`` is the database's time."""

    fleet: FleetRow
    machines: list[FleetMachine]
    now: float


@dataclass(frozen=True, slots=True)
class FleetMachine:
    """A cloud instance of a fleet. ``taken``: a job has the machine. ``idle_at``: since when no job has."""

    instance: InstanceRow
    idle_at: float | None
    taken: bool


BOOKED = select(booked.c.block).where(booked.c.instance_id == instances.c.id).exists()
MACHINES = (
    select(instances, rents.c.idle_at, (BOOKED | instances.c.attempt_id.is_not(None)).label("taken"))
    .join(rents, rents.c.instance_id == instances.c.id)
    .order_by(instances.c.created_at)
)
COLUMNS = len(instances.columns)


def _machines(connection: Connection, query: Select[Any]) -> list[FleetMachine]:
    return [FleetMachine(instance_row(row), row[COLUMNS], bool(row[COLUMNS + 1])) for row in connection.execute(query)]


def growable(connection: Connection, project: str, names: Sequence[str], nodes: int) -> list[FleetRow]:
    """Fleets of these names that may grow by so many machines, in the order of the names."""
    query = select(fleets).where(
        fleets.c.project == project,
        fleets.c.kind == "cloud",
        fleets.c.state == FleetState.ACTIVE,
        fleets.c.name.in_(names),
    )
    by_name = {row.name: fleet_row(row) for row in connection.execute(query)}
    return [by_name[name] for name in names if name in by_name and _has_room(connection, by_name[name], nodes)]


def _has_room(connection: Connection, fleet: FleetRow, nodes: int) -> bool:
    assert fleet.configuration is not None
    most = NodesRange.model_validate(fleet.configuration["nodes"]).max
    stays = ~among(instances.c.state, [InstanceState.TERMINATING, InstanceState.TERMINATED])
    living = select(func.count()).select_from(instances).where(instances.c.fleet_id == fleet.id, stays)
    return most is None or connection.execute(living).scalar_one() + nodes <= most


def place_of(connection: Connection, fleet_id: str) -> tuple[str, str] | None:
    """(backend, region) of a fleet's first living machine."""
    stays = ~among(instances.c.state, [InstanceState.TERMINATING, InstanceState.TERMINATED])
    query = select(instances.c.backend, instances.c.region).where(instances.c.fleet_id == fleet_id, stays)
    row = connection.execute(query.order_by(instances.c.created_at).limit(1)).one_or_none()
    return None if row is None else (row.backend, row.region)


def made_for(connection: Connection, fleet_id: str, attempt_ids: Sequence[str]) -> list[InstanceRow]:
    """Instances of other fleets than ``fleet_id`` that were made for these attempts, the oldest first."""
    query = select(instances).where(instances.c.attempt_id.in_(attempt_ids), instances.c.fleet_id != fleet_id)
    return [instance_row(row) for row in connection.execute(query.order_by(instances.c.created_at))]


def shared_of(connection: Connection, fleet_id: str) -> tuple[list[FleetMachine], float]:
    """(the living machines of a run's own fleet that it shares; the database's time)."""
    query = MACHINES.where(instances.c.fleet_id == fleet_id, instances.c.attempt_id.is_(None), bookings.LIVING)
    return _machines(connection, query), connection.execute(select(now())).scalar_one()


def load(connection: Connection, fleet_id: str) -> Loaded:
    fleet = fleet_row(connection.execute(select(fleets).where(fleets.c.id == fleet_id)).one())
    counts = bookings.LIVING | instances.c.started_at.is_not(None) | (instances.c.finished_at > now() - FORGETS)
    machines = _machines(connection, MACHINES.where(instances.c.fleet_id == fleet_id, counts))
    return Loaded(fleet, machines, connection.execute(select(now())).scalar_one())


def _locked(connection: Connection, fleet_id: str) -> FleetRow:
    """Lock the fleet: nobody else changes or grows the fleet until we commit."""
    return fleet_row(connection.execute(select(fleets).where(fleets.c.id == fleet_id).with_for_update(key_share=True)).one())


CHANGES = {"nodes", "idle_duration"}
"""What an apply changes in an existing fleet."""


def apply_fleet(
    connection: Connection, *, fleet_id: str, name: str, project: str, user: str, configuration: dict[str, Any], owner: str = ""
) -> tuple[str, bool]:
    """Store a fleet, or change the active one of that name. Returns (its id, whether it is new: then ``owner`` leases it).

    Raises Conflict where what was changed holds for machines that are there, and for one that is being deleted.
    """
    known = connection.execute(
        select(fleets)
        .where(fleets.c.project == project, fleets.c.name == name, fleets.c.run_id.is_(None), fleets.c.state.not_in(FLEET_END))
        .with_for_update(key_share=True)
    ).one_or_none()
    if known is None:
        values = {"id": fleet_id, "project": project, "name": name, "user": user, "configuration": configuration}
        try:
            with connection.begin_nested():
                connection.execute(
                    insert(fleets).values(
                        **values, run_id=None, kind="cloud", message="", state=FleetState.ACTIVE, place="", created_at=now()
                    )
                )
        except IntegrityError as error:
            raise Conflict(f"fleet {name} is being applied by somebody else", hint="apply it again") from error
        leases.born(connection, fleet_id, owner)
        _event(connection, user, project, fleet_id, name, "applied")
        return fleet_id, True
    if known.state != FleetState.ACTIVE:
        raise Conflict(f"fleet {name} is being deleted", hint="apply it again when it is gone")
    if known.kind != "cloud":
        raise Conflict(f"fleet {name} is one of SSH hosts", hint="choose another name, or delete that fleet first")
    before = known.configuration
    differs = sorted(key for key in before.keys() | configuration.keys() if before.get(key) != configuration.get(key))
    if fixed := [key for key in differs if key not in CHANGES]:
        raise Conflict(
            f"fleet {name} has machines that were made by other values of {', '.join(fixed)}",
            hint=f"only {' and '.join(sorted(CHANGES))} can be changed: `%dstack fleets delete {name}`, then apply it anew",
        )
    if differs:
        connection.execute(update(fleets).where(fleets.c.id == known.id).values(configuration=configuration, message=""))
        _event(connection, user, project, known.id, name, "updated")
    return known.id, False


def _event(connection: Connection, actor: str, project: str, id: str, name: str, action: str, message: str = "") -> None:
    events.record(
        connection,
        actor=actor,
        project=project,
        kind="fleet",
        resource_id=id,
        run_id="",
        name=name,
        action=action,
        message=message,
    )


def delete_fleet(connection: Connection, fleet: FleetRow, user: str) -> None:
    """End a fleet with all its machines. Raises Conflict while a run has one of them."""
    if _locked(connection, fleet.id).state != FleetState.ACTIVE:
        return
    living = bookings.alone(select(instances).where(instances.c.fleet_id == fleet.id, bookings.LIVING))
    for row in connection.execute(living).all():
        bookings.refuse_if_used(connection, instance_row(row))
    connection.execute(update(fleets).where(fleets.c.id == fleet.id).values(state=FleetState.TERMINATING, message=""))
    _event(connection, user, fleet.project, fleet.id, fleet.name, "delete")


def want(
    connection: Connection,
    fleet: FleetRow,
    *,
    instance_id: str,
    identity: str,
    offer: OfferView,
    guard: Guard,
    data: dict[str, Any],
    attempt_id: str | None = None,
    run_id: str = "",
) -> bool:
    """Store the intent of a machine of a fleet, for one attempt or for all. False: the fleet has all that it may, or is to go."""
    now_there = _locked(connection, fleet.id)
    if now_there.state != FleetState.ACTIVE or not _has_room(connection, now_there, 1):
        return False
    moves.want_instance(
        connection,
        instance_id=instance_id,
        identity=identity,
        attempt_id=attempt_id,
        fleet=fleet,
        run_id=run_id,
        offer=offer,
        guard=guard,
        host=offer.backend,
        gpus=[],
        data=data,
    )
    cloud_instances.want(connection, instance_id)
    return True


def keep(connection: Connection, instance_id: str, attempt_id: str) -> None:
    """Share a machine that was made for an attempt: the attempt has ended, or will not get the machine."""
    row = connection.execute(bookings.alone(select(instances).where(instances.c.id == instance_id))).one()
    if row.attempt_id != attempt_id:
        return
    connection.execute(update(instances).where(instances.c.id == instance_id).values(attempt_id=None))
    if row.state == InstanceState.BUSY:
        moves.move_instance(connection, instance_id, InstanceState.IDLE)
        connection.execute(moves.IDLE_AGAIN, {"b_id": instance_id})


def let_go_free(connection: Connection, instance_id: str, why: str, *, spared: bool = True) -> bool:
    """End a machine unless an attempt has or will get the machine. Returns whether the machine is to end.

    ``spared``: the end says nothing against the offer.
    """
    row = connection.execute(bookings.alone(select(instances).where(instances.c.id == instance_id))).one()
    if row.attempt_id is not None or connection.execute(moves.BOOKED, {"id": instance_id}).scalar() is not None:
        return False
    if spared:
        data = {**row.data, "spared": True}
        connection.execute(update(instances).where(instances.c.id == instance_id, bookings.LIVING).values(data=data))
    cloud_instances.let_go(connection, instance_id, why)
    return True


def say(connection: Connection, fleet: FleetRow, message: str) -> None:
    """Store why a fleet is short of machines; '' when none are missing. Each new reason is an event."""
    connection.execute(update(fleets).where(fleets.c.id == fleet.id).values(message=message))
    if message:
        _event(connection, "engine", fleet.project, fleet.id, fleet.name, "short", message)


def close(connection: Connection, fleet: FleetRow) -> None:
    moves.close_fleet(connection, fleet.id)
    _event(connection, "engine", fleet.project, fleet.id, fleet.name, InstanceState.TERMINATED)
