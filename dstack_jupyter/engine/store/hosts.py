"""SSH fleets in the store: their hosts, which blocks of them are booked by whom, and the keys that they are known by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from ...models.errors import Conflict, NotFound
from ...models.fleets import NodesRange
from ...models.fleets_view import FleetView, HostView
from ...models.states import FLEET_END, FleetState, InstanceState
from . import events, leases, moves
from .bookings import LIVING, alone, booked_by, free_blocks, refuse_if_used
from .columns import now
from .host_keys import pinned
from .rows import FleetRow, InstanceRow, fleet_row, instance_row
from .schema import fleets, instances


@dataclass(frozen=True, slots=True)
class NewHost:
    """A host of a fleet that is applied. ``data`` holds its address, blocks and internal IP."""

    id: str
    identity: str
    hostname: str
    data: dict[str, Any]


def find_fleet(connection: Connection, name: str, project: str) -> FleetRow:
    """The active fleet of a name or id. Raises NotFound with the existing names."""
    active = select(fleets).where(fleets.c.project == project, fleets.c.run_id.is_(None), fleets.c.state.not_in(FLEET_END))
    active_row = connection.execute(active.where((fleets.c.name == name) | (fleets.c.id == name))).one_or_none()
    if active_row is None:
        names = ", ".join(row.name for row in connection.execute(active.order_by(fleets.c.name)))
        raise NotFound(f"there is no fleet {name!r}", hint=f"fleets: {names}" if names else "no fleet was applied yet")
    return fleet_row(active_row)


def apply_fleet(
    connection: Connection,
    *,
    fleet_id: str,
    name: str,
    project: str,
    user: str,
    configuration: dict[str, Any],
    hosts: Sequence[NewHost],
    owner: str = "",
) -> tuple[str, list[str], bool]:
    """Store a fleet, or bring the active fleet of that name in line: add, change or release hosts.

    Returns (its id, the instances to look at, whether it is new: then ``owner`` leases it). Raises Conflict for a host that runs
    a job and is changed or left out, and for one that was left out before and is not gone yet.
    """
    known = connection.execute(
        select(fleets)
        .where(fleets.c.project == project, fleets.c.name == name, fleets.c.run_id.is_(None), fleets.c.state.not_in(FLEET_END))
        .with_for_update(key_share=True)
    ).one_or_none()
    if known is None:
        try:
            with connection.begin_nested():
                connection.execute(
                    insert(fleets).values(
                        id=fleet_id,
                        project=project,
                        name=name,
                        run_id=None,
                        kind="ssh",
                        message="",
                        configuration=configuration,
                        user=user,
                        state=FleetState.ACTIVE,
                        place="",
                        created_at=now(),
                    )
                )
        except IntegrityError as error:
            raise Conflict(f"fleet {name} is being applied by somebody else", hint="apply it again") from error
        leases.born(connection, fleet_id, owner)
        _event(connection, user, project, "fleet", fleet_id, name, "applied")
    else:
        fleet_id = known.id
        if known.state != FleetState.ACTIVE:
            raise Conflict(f"fleet {name} is being deleted", hint="apply it again when it is gone")
        if known.kind != "ssh":
            raise Conflict(f"fleet {name} is one of clouds' machines", hint="choose another name, or delete that fleet first")
        connection.execute(update(fleets).where(fleets.c.id == fleet_id).values(configuration=configuration))
        _event(connection, user, project, "fleet", fleet_id, name, "updated")
    present = {
        row.instance_type: instance_row(row)
        for row in connection.execute(alone(select(instances).where(instances.c.fleet_id == fleet_id, LIVING)))
    }
    touched: list[str] = []
    wanted = {host.hostname for host in hosts}
    for hostname, row in present.items():
        if hostname not in wanted and row.state != InstanceState.TERMINATING:
            let_go(connection, row, f"{hostname} was taken out of fleet {name}")
            touched.append(row.id)
    for host in hosts:
        there = present.get(host.hostname)
        if there is None:
            _insert(connection, fleet_id, name, project, host)
            touched.append(host.id)
        elif there.state == InstanceState.TERMINATING:
            raise Conflict(f"host {host.hostname} is being given back", hint="apply the fleet again in a moment")
        elif any(there.data_json.get(key) != value for key, value in host.data.items()):
            if booked_by(connection, there):
                raise Conflict(f"host {host.hostname} runs a job", hint="stop it first, then apply the fleet again")
            connection.execute(
                update(instances)
                .where(instances.c.id == there.id)
                .values(data={**there.data_json, **host.data}, state=InstanceState.PENDING, message="")
            )
            touched.append(there.id)
    return fleet_id, touched, known is None


def _insert(connection: Connection, fleet_id: str, fleet: str, project: str, host: NewHost) -> None:
    connection.execute(
        insert(instances).values(
            id=host.id,
            identity=host.identity,
            project=project,
            fleet_id=fleet_id,
            attempt_id=None,
            backend="ssh",
            region=fleet,
            instance_type=host.hostname,
            price=0.0,
            offer={},
            data=host.data,
            guard={"kind": "none", "text": "the host is yours and costs nothing here"},
            state=InstanceState.PENDING,
            created_at=now(),
        )
    )


def _event(connection: Connection, actor: str, project: str, kind: str, id: str, name: str, action: str, text: str = "") -> None:
    events.record(
        connection, actor=actor, project=project, kind=kind, resource_id=id, run_id="", name=name, action=action, message=text
    )


def let_go(connection: Connection, row: InstanceRow, why: str) -> None:
    """Begin to release a host. Raises Conflict while it runs a job."""
    refuse_if_used(connection, row)
    moves.move_instance(connection, row.id, InstanceState.TERMINATING, message=why)


def delete_fleet(connection: Connection, fleet: FleetRow, user: str) -> list[str]:
    """Begin to delete a fleet: all its hosts, or none. Returns the instances to look at. Raises Conflict."""
    living = alone(select(instances).where(instances.c.fleet_id == fleet.id, LIVING))
    rows = [instance_row(row) for row in connection.execute(living)]
    for row in rows:
        let_go(connection, row, f"fleet {fleet.name} is deleted")
    connection.execute(update(fleets).where(fleets.c.id == fleet.id).values(state=FleetState.TERMINATING))
    _event(connection, user, fleet.project, "fleet", fleet.id, fleet.name, "delete")
    close_if_empty(connection, fleet.id)
    return [row.id for row in rows]


def close_if_empty(connection: Connection, fleet_id: str) -> bool:
    """End a fleet under deletion with its last host. Returns whether the fleet has ended."""
    state = connection.execute(select(fleets.c.state).where(fleets.c.id == fleet_id)).scalar_one()
    living = connection.execute(select(instances.c.id).where(instances.c.fleet_id == fleet_id, LIVING).limit(1)).scalar()
    if state == FleetState.TERMINATING and living is None:
        moves.close_fleet(connection, fleet_id)
        return True
    return state in FLEET_END


def load_host(connection: Connection, instance_id: str) -> tuple[InstanceRow, FleetRow]:
    """(instance, its fleet)."""
    row = instance_row(connection.execute(select(instances).where(instances.c.id == instance_id)).one())
    return row, fleet_row(connection.execute(select(fleets).where(fleets.c.id == row.fleet_id)).one())


def living(connection: Connection) -> list[InstanceRow]:
    """Every host that has not been given back."""
    query = select(instances).where(instances.c.backend == "ssh", LIVING)
    return [instance_row(row) for row in connection.execute(query)]


def is_gone(connection: Connection, instance_id: str) -> bool:
    """Whether a host of this store was given back. An unknown host was not: a copy of this store may have claimed the host."""
    return connection.execute(select(instances.c.state).where(instances.c.id == instance_id)).scalar() == InstanceState.TERMINATED


def note(connection: Connection, instance_id: str, *, message: str, offer: dict[str, Any], data: dict[str, Any]) -> None:
    """Store the facts of a host. A host that becomes usable becomes idle."""
    row = connection.execute(alone(select(instances).where(instances.c.id == instance_id))).one()
    values: dict[str, Any] = {"message": message, "data": {**row.data, **data}}
    if offer:
        values["offer"] = offer
    connection.execute(update(instances).where(instances.c.id == instance_id).values(**values))
    if not message and row.state == InstanceState.PENDING:
        moves.move_instance(connection, instance_id, InstanceState.IDLE)
    elif message and message != row.message:
        _event(
            connection, "engine", row.project, "instance", instance_id, row.identity, "problem", f"{row.instance_type}: {message}"
        )


def fleet_views(connection: Connection, project: str, fingerprint: Any) -> list[FleetView]:
    """The fleets that users applied and that are not gone; ``fingerprint`` makes one of a host's endpoint."""
    query = select(fleets).where(fleets.c.project == project, fleets.c.run_id.is_(None), fleets.c.state.not_in(FLEET_END))
    views = []
    for fleet in map(fleet_row, connection.execute(query.order_by(fleets.c.name)).all()):
        living = select(instances).where(instances.c.fleet_id == fleet.id, LIVING).order_by(instances.c.created_at)
        rows = [instance_row(row) for row in connection.execute(living)]
        free = free_blocks(connection, rows)
        views.append(
            FleetView(
                id=fleet.id,
                project=fleet.project,
                name=fleet.name,
                state=FleetState(fleet.state),
                user=fleet.user,
                created_at=fleet.created_at,
                kind=fleet.kind,
                message=fleet.message,
                nodes=NodesRange.model_validate(nodes).model_dump()
                if (nodes := (fleet.configuration or {}).get("nodes"))
                else {},
                hosts=[_host_view(connection, row, free[row.id], fingerprint) for row in rows],
                configuration=fleet.configuration or {},
            )
        )
    return views


def _host_view(connection: Connection, row: InstanceRow, free: list[int], fingerprint: Any) -> HostView:
    shown = {name: row.offer_json[name] for name in HostView.model_fields.keys() - {"blocks"} if name in row.offer_json}
    shown |= {name: getattr(row, name) for name in ("backend", "region", "instance_type", "price")}
    if row.backend == "ssh":
        shown["price"] = None  # it is the user's own
    blocks = row.data.blocks
    return HostView(
        **shown,
        id=row.id,
        hostname=row.instance_type if row.backend == "ssh" else row.identity,
        state=InstanceState(row.state),
        message=row.message,
        docker=row.data.docker,
        blocks=blocks,
        busy_blocks=blocks - len(free),
        runs=booked_by(connection, row),
        host_key=fingerprint(pinned(connection, row.data.endpoint)),
        notes=row.data.notes,
    )
