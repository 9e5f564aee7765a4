"""Machines that runs share, and which attempt has booked which blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, insert, select, update
from sqlalchemy.exc import IntegrityError

from ...models.errors import Conflict, NoCapacity
from ...models.states import AttemptState, FleetState, InstanceState
from . import moves
from .columns import among
from .rows import InstanceRow, instance_row
from .schema import attempts, bookings, fleets, instances, runs

USABLE = (InstanceState.IDLE, InstanceState.BUSY)


LIVING = ~among(instances.c.state, [InstanceState.TERMINATED])


def alone(query: Select[Any]) -> Select[Any]:
    """Instances that nobody else books, frees or changes until we commit; in one order, so that no two wait for each other."""
    return query.order_by(instances.c.id).with_for_update(key_share=True)


def booked_by(connection: Connection, row: InstanceRow) -> list[str]:
    """The names of the runs that have a machine, or that a machine is made for."""
    query = select(runs.c.name).join(attempts, attempts.c.run_id == runs.c.id)
    held = select(bookings.c.attempt_id).where(bookings.c.instance_id == row.id)
    return sorted(set(connection.execute(query.where((attempts.c.id == row.attempt_id) | attempts.c.id.in_(held))).scalars()))


def refuse_if_used(connection: Connection, row: InstanceRow) -> None:
    """Raises Conflict while a machine runs a job."""
    running = booked_by(connection, row)
    if running:
        what = f"host {row.instance_type}" if row.backend == "ssh" else row.identity
        raise Conflict(f"{what} runs {', '.join(running)}", hint=f"`%dstack stop {running[0]}` first")


SHARED = (
    select(instances, fleets.c.name.label("fleet"))
    .join(fleets, fleets.c.id == instances.c.fleet_id)
    .where(instances.c.attempt_id.is_(None), LIVING)
    .order_by(instances.c.created_at)
)
"""Machines that runs share: hosts, and cloud instances of fleets. An index holds them."""
COLUMNS = len(instances.columns)


@dataclass(frozen=True, slots=True)
class SharedMachine:
    """A machine that runs share, and the name of its fleet."""

    instance: InstanceRow
    fleet: str


def _shared(connection: Connection, query: Select[Any]) -> list[SharedMachine]:
    return [SharedMachine(instance_row(row), row[COLUMNS]) for row in connection.execute(query)]


def offers(connection: Connection) -> list[dict[str, Any]]:
    """Rows of the offers table, with their ``fleet``: every host that is understood, busy ones and those in trouble with their
    reason; of cloud instances the idle ones, for the others are no offer."""
    machines = _shared(connection, SHARED)
    free = free_blocks(connection, [each.instance for each in machines])
    offered = []
    for each in machines:
        row, offer, fleet = each.instance, each.instance.offer_json, each.fleet
        if row.backend != "ssh":
            if usable(row) and free[row.id]:
                is_free = {"availability": "idle", "reason": f"a machine of {fleet}", "fleet": fleet}
                offered.append({**offer, **is_free, "origin": "fleet", "instance_id": row.id})
            continue
        if not offer:
            continue
        availability, reason = "idle" if free[row.id] else "busy", offer.get("reason", "")
        if row.message or row.state not in USABLE:
            availability, reason = "not_available", row.message
        blocks: dict[str, Any] = {"blocks": len(free[row.id]), "total_blocks": row.data.blocks}
        is_free = {"availability": availability, "reason": reason, "fleet": fleet}
        offered.append({**offer, **blocks, **is_free, "origin": "host", "instance_id": row.id})
    return offered


@dataclass(frozen=True, slots=True)
class Wish:
    """Blocks of one host for one attempt."""

    attempt_id: str
    instance_id: str
    count: int


def free_blocks(connection: Connection, rows: Sequence[InstanceRow]) -> dict[str, list[int]]:
    """The blocks of each host that nobody has booked."""
    taken: dict[str, set[int]] = {}
    ids = [row.id for row in rows]
    if not ids:
        return {}
    for booking in connection.execute(select(bookings).where(bookings.c.instance_id.in_(ids))):
        taken.setdefault(booking.instance_id, set()).add(booking.block)
    return {row.id: [block for block in range(row.data.blocks) if block not in taken.get(row.id, ())] for row in rows}


def usable(row: InstanceRow) -> bool:
    """Whether a job may have a machine that nobody else has: a host that is reached and without a problem; a cloud instance
    that is ready, whatever its vendor's account says at the moment."""
    if row.backend == "ssh":
        return not row.message and row.state in USABLE
    return row.attempt_id is None and row.state == InstanceState.IDLE


def usable_machines(connection: Connection, project: str) -> list[SharedMachine]:
    """Machines that jobs may use, in the order of their making; their blocks may be booked."""
    query = SHARED.where(instances.c.project == project, fleets.c.state == FleetState.ACTIVE)
    return [each for each in _shared(connection, query) if usable(each.instance)]


def book(connection: Connection, wishes: Sequence[Wish]) -> None:
    """Book all or nothing, in the caller's transaction. Raises NoCapacity when another run was faster."""
    wanted = alone(select(instances).where(instances.c.id.in_([wish.instance_id for wish in wishes])))
    rows = [instance_row(row) for row in connection.execute(wanted)]
    if not all(usable(row) for row in rows):
        raise NoCapacity("the machines that fit cannot be used just now")
    free = free_blocks(connection, rows)
    try:
        with connection.begin_nested():
            for wish in wishes:
                blocks = [free[wish.instance_id].pop(0) for _ in range(wish.count)]
                for block in blocks:
                    connection.execute(
                        insert(bookings).values(instance_id=wish.instance_id, block=block, attempt_id=wish.attempt_id)
                    )
    except (IntegrityError, IndexError) as error:
        raise NoCapacity("the machines that fit are busy") from error
    for wish in wishes:
        connection.execute(update(attempts).where(attempts.c.id == wish.attempt_id).values(instance_id=wish.instance_id))
        moves.move_instance(connection, wish.instance_id, InstanceState.BUSY)
        moves.move_attempt(connection, wish.attempt_id, AttemptState.PROVISIONING)


def blocks_of(connection: Connection, attempt_id: str) -> list[int]:
    query = select(bookings.c.block).where(bookings.c.attempt_id == attempt_id).order_by(bookings.c.block)
    return list(connection.execute(query).scalars())
