"""Rented machines in the store: what was asked of a vendor, what it told, and the things beside them. Each function is a
transaction's part; what a call may make is stored before the call (R1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Update, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from ...backends.base import CloudResource, Instance, ResourceRequest
from ...models.states import ATTEMPT_END, Desired, InstanceState
from . import accounts, costing, events, host_keys, moves
from .columns import among, now
from .joined import Joined
from .rows import OBSERVED, CloudResourceRow, CloudRow, InstanceRow, cloud_resource_row
from .schema import attempts, bookings, cloud_instances, cloud_resources, instances, runs

BOTH = Joined(instances, cloud_instances)
BOOKED_BY = select(bookings.c.attempt_id).where(bookings.c.instance_id == instances.c.id).limit(1).scalar_subquery()
HELD_BY = func.coalesce(instances.c.attempt_id, BOOKED_BY)
FLEET_OF_RUN = (
    select(runs.c.fleet_id).join(attempts, attempts.c.run_id == runs.c.id).where(attempts.c.id == HELD_BY).scalar_subquery()
)
UNREAD = (
    select(attempts.c.id)
    .join(runs, runs.c.id == attempts.c.run_id)
    .where(
        attempts.c.id == HELD_BY,
        attempts.c.instance_id == instances.c.id,
        ~among(attempts.c.state, ATTEMPT_END),
        runs.c.desired == Desired.RUNNING,
    )
    .scalar_subquery()
)
LOAD = (
    BOTH.query.add_columns(
        now().label("current"),
        HELD_BY.label("held_by"),
        FLEET_OF_RUN.label("asked_by"),
        UNREAD.label("unread"),
        select(cloud_resources.c.resource_id)
        .where(cloud_resources.c.instance_id == instances.c.id)
        .exists()
        .label("has_resources"),
    )
    .join(cloud_instances, cloud_instances.c.instance_id == instances.c.id)
    .where(instances.c.id == bindparam("id"))
)
RESOURCES = select(cloud_resources).where(cloud_resources.c.instance_id == bindparam("id"))
ALONE = (
    select(
        instances.c.id,
        instances.c.state,
        instances.c.created_at,
        instances.c.backend,
        instances.c.project,
        instances.c.attempt_id,
        instances.c.data,
        cloud_instances.c.create_sent_at,
        now().label("current"),
    )
    .join(cloud_instances, cloud_instances.c.instance_id == instances.c.id)
    .where(instances.c.id == bindparam("id"))
    .with_for_update(key_share=True, of=instances)
)
"""An instance that nobody moves until we commit."""


def _change(*names: str, **values: Any) -> Update:
    """An update of one row; ``names`` are given with each. Built once: making a statement costs more than running it."""
    given: dict[str, Any] = {name: bindparam(f"b_{name}") for name in names}
    return update(cloud_instances).where(cloud_instances.c.instance_id == bindparam("b_id")).values({**given, **values})


ASKED = _change("account", create_sent_at=now(), absent_since=None)
UNASKED = _change("create_sent_at")
ANSWER = {"absent_since": None, "rented_at": func.coalesce(cloud_instances.c.rented_at, bindparam("b_begun"))}
ANSWERED = _change("vendor", "observed", **ANSWER)
SAW = _change("vendor", "observed", **ANSWER, observed_at=now())
MOVED = _change("account")
ABSENT = _change(absent_since=func.coalesce(cloud_instances.c.absent_since, now()))
TOLD = _change(delete_accepted_at=now())
ENDING = _change(ending_at=func.coalesce(cloud_instances.c.ending_at, now()))
ALIVE = select(attempts.c.id).where(
    attempts.c.run_id == select(attempts.c.run_id).where(attempts.c.id == bindparam("id")).scalar_subquery(),
    ~among(attempts.c.state, ATTEMPT_END),
)
"""The attempts of the run that an attempt is of, which have not ended."""
DATA = update(instances).where(instances.c.id == bindparam("b_id")).values(data=bindparam("b_data"))
SAY = (
    update(instances)
    .where(instances.c.id == bindparam("b_id"), instances.c.state != InstanceState.TERMINATED)
    .values(message=bindparam("b_message"))
)
RESOURCE = select(cloud_resources).where(
    cloud_resources.c.account == bindparam("account"),
    cloud_resources.c.kind == bindparam("kind"),
    cloud_resources.c.identity == bindparam("identity"),
)


@dataclass(frozen=True, slots=True)
class CloudInstance:
    """One rented instance as the store has it. ``now`` is the database's time, ``resources`` are its own, not shared ones.

    ``held_by`` is the attempt that it is made for or that has booked it, ``asked_by`` the fleet of that one's run; ``unread`` the
    attempt if it has had the machine, has not ended, and nobody asked for its end.
    """

    instance: InstanceRow
    cloud: CloudRow
    now: float
    resources: list[CloudResourceRow]
    held_by: str | None
    asked_by: str | None
    unread: str | None

    @property
    def concerned(self) -> list[tuple[str, str]]:
        """(kind, id) of all that have to look when it has changed: its fleet, that of the run that asked for it, the attempt."""
        keys = [("fleet", self.instance.fleet_id), ("fleet", self.asked_by), ("attempt", self.held_by)]
        return [(kind, id) for kind, id in dict.fromkeys(keys) if id is not None]


def load(connection: Connection, instance_id: str) -> CloudInstance:
    """Raises NoResultFound for an instance that is not rented."""
    loaded = connection.execute(LOAD, {"id": instance_id}).one()
    instance, row = BOTH.split(loaded)
    rows = connection.execute(RESOURCES, {"id": instance_id}) if loaded.has_resources else ()
    resources = [cloud_resource_row(row) for row in rows]
    return CloudInstance(instance, row, loaded.current, resources, loaded.held_by, loaded.asked_by, loaded.unread)


def want(connection: Connection, instance_id: str) -> None:
    """Part of the transaction that stores the intent of an instance."""
    connection.execute(insert(cloud_instances).values(instance_id=instance_id, account="", observed={}))


def ask(connection: Connection, instance_id: str, account: str) -> bool:
    """Note that a create is sent now, and where: from then on that account is swept (R10).

    False where the instance is not wanted any more: then none may be sent (R6).
    """
    row = connection.execute(ALONE, {"id": instance_id}).one()
    if row.state != InstanceState.PENDING:
        return False
    accounts.used(connection, account, row.backend, row.project)
    connection.execute(ASKED, {"b_id": instance_id, "b_account": account})
    return True


def unasked(connection: Connection, instance_id: str, before: float | None) -> None:
    """The create that was noted made surely nothing; ``before`` it the last one was sent, None: there was none."""
    connection.execute(UNASKED, {"b_id": instance_id, "b_create_sent_at": before})


def saw(connection: Connection, instance_id: str, answer: Instance, host_key: str) -> None:
    """Store what the vendor told of an instance when it was asked for it. ``host_key``: as ``answered``."""
    _tell(connection, SAW, instance_id, answer, host_key)


def answered(connection: Connection, instance_id: str, answer: Instance, host_key: str) -> None:
    """Store what a create answered, which proves that the machine is there, not that the vendor's other calls know it.

    What was only an intent is provisioning from now on. ``host_key`` is what it must show at its first contact: pinned before
    there is one, whatever was known of that address (D6).
    """
    _tell(connection, ANSWERED, instance_id, answer, host_key)


def _tell(connection: Connection, statement: Update, instance_id: str, answer: Instance, host_key: str) -> None:
    row = connection.execute(ALONE, {"id": instance_id}).one()
    values = {
        "b_id": instance_id,
        "b_vendor": dict(answer.data),
        "b_observed": {name: getattr(answer, name) for name in OBSERVED},
        "b_begun": answer.created_at if row.created_at <= answer.created_at <= row.current else row.create_sent_at or row.current,
    }
    connection.execute(statement, values)
    if answer.address:
        _pin(connection, row, answer, host_key)
    if row.state == InstanceState.PENDING:
        moves.move_instance(connection, instance_id, InstanceState.PROVISIONING, message="made; waiting for its address")


def _pin(connection: Connection, instance: Row[Any], answer: Instance, host_key: str) -> None:
    """Where it is reached, and the key it must show there."""
    data = instance.data
    address = {"hostname": answer.address, "port": answer.port, "user": answer.user, "identity_file": "", "proxy": None}
    if data.get("address") == address:
        return
    host_keys.pin(connection, f"{answer.address}:{answer.port}", data.get("host_key", host_key))
    inside = answer.internal_address or answer.address
    fresh = {**data, "address": address, "internal_ip_found": inside, "host_key": data.get("host_key", host_key)}
    connection.execute(DATA, {"b_id": instance.id, "b_data": fresh})


def renewed(connection: Connection, instance_id: str, *, next_key: str = "", host_key: str = "") -> None:
    """The key that a machine will show (``next_key``, before it is told to), or shows now (``host_key``, pinned with it)."""
    row = connection.execute(ALONE, {"id": instance_id}).one()
    data = {**row.data, "next_key": next_key}
    if host_key:
        data["host_key"] = host_key
        host_keys.pin(connection, f"{data['address']['hostname']}:{data['address']['port']}", host_key)
    connection.execute(DATA, {"b_id": instance_id, "b_data": data})


def moved(connection: Connection, instance_id: str, account: str) -> None:
    """It was found with another key than the one that it was made with, and so will be what goes with it."""
    row = connection.execute(ALONE, {"id": instance_id}).one()
    accounts.used(connection, account, row.backend, row.project)
    connection.execute(MOVED, {"b_id": instance_id, "b_account": account})
    connection.execute(update(cloud_resources).where(cloud_resources.c.instance_id == instance_id).values(account=account))


def absent(connection: Connection, instance_id: str) -> None:
    """The vendor says that it has none, now."""
    connection.execute(ABSENT, {"b_id": instance_id})


def started(connection: Connection, machine: CloudInstance) -> None:
    """Note that the vendor is asked from now on to start it, to read what a job left."""
    message = "it is off, and is started again to read what its job left"
    say(connection, machine.instance.id, message)
    events.record(
        connection,
        actor="engine",
        project=machine.instance.project,
        kind="instance",
        resource_id=machine.instance.id,
        name=machine.instance.identity,
        action="started",
        message=message,
    )


def told(connection: Connection, instance_id: str) -> None:
    """The vendor accepted to end it, now."""
    connection.execute(TOLD, {"b_id": instance_id})


def ready(connection: Connection, instance_id: str, facts: dict[str, Any]) -> list[str]:
    """It can have its job, unless it is to go by now. Returns the attempts to wake: all of the run that it is for."""
    row = connection.execute(ALONE, {"id": instance_id}).one()
    if row.state != InstanceState.PROVISIONING:
        return []
    moves.move_instance(connection, instance_id, InstanceState.IDLE, data={**row.data, **facts})
    connection.execute(moves.IDLE_AGAIN, {"b_id": instance_id})
    return list(connection.execute(ALIVE, {"id": row.attempt_id}).scalars())


def let_go(connection: Connection, instance_id: str, why: str) -> None:
    """It is to be ended, whoever decided it. Nothing happens to one that is going already."""
    moves.move_instance(connection, instance_id, InstanceState.TERMINATING, message=why)
    connection.execute(ENDING, {"b_id": instance_id})


def gone(connection: Connection, instance_id: str, why: str, *, verdict: str = "") -> None:
    """Its end: the vendor's word, or the proof that nothing was made. ``verdict`` stays with it.

    One that never had the job leaves a line for whoever waits: what was tried, and what came of it.
    """
    row = connection.execute(select(instances).where(instances.c.id == instance_id).with_for_update(key_share=True)).one()
    if row.state == InstanceState.TERMINATED:
        return
    why = why or row.message
    moves.move_instance(connection, instance_id, InstanceState.TERMINATED, message=why, data={**row.data, "verdict": verdict})
    if (address := row.data.get("address")) is not None:
        host_keys.unpin_key(connection, f"{address['hostname']}:{address['port']}", row.data.get("host_key", ""))
    waits = select(attempts.c.run_id).where(
        attempts.c.id == row.attempt_id, attempts.c.instance_id.is_(None), attempts.c.state.not_in(ATTEMPT_END)
    )
    run_id = connection.execute(waits).scalar()
    if run_id is not None:
        events.record(
            connection,
            actor="engine",
            project=row.project,
            kind="run",
            resource_id=run_id,
            run_id=run_id,
            name=row.identity,
            action="tried",
            message=costing.tried(row, why),
        )


def forget(connection: Connection, instance_id: str, user: str, why: str) -> CloudInstance:
    """Its end by a user's word: nobody can ask for it any more, and ``why``. Returns it as it stood."""
    machine = load(connection, instance_id)
    if machine.instance.state != InstanceState.TERMINATED:
        gone(connection, instance_id, f"forgotten by {user}, whether or not it goes on to cost money: {why}")
        events.record(
            connection,
            actor=user,
            project=machine.instance.project,
            kind="instance",
            resource_id=instance_id,
            run_id="",
            name=machine.instance.identity,
            action="forgotten",
            message=why,
        )
    return machine


def say(connection: Connection, instance_id: str, message: str) -> None:
    """What it does or lacks at the moment, for people."""
    connection.execute(SAY, {"b_id": instance_id, "b_message": message})


# --- things beside machines --------------------------------------------------------------------------------------------


def _key(account: str, kind: str, identity: str) -> Any:
    return (cloud_resources.c.account == account) & (cloud_resources.c.kind == kind) & (cloud_resources.c.identity == identity)


def need(
    connection: Connection, account: str, need: ResourceRequest, *, backend: str, project: str, instance_id: str
) -> CloudResource | None:
    """Store that a thing is wanted, before it is made, and in which account. Returns it if it is known to be there."""
    row = connection.execute(RESOURCE, {"account": account, "kind": need.kind, "identity": need.identity}).one_or_none()
    if row is not None:
        return resource_of(cloud_resource_row(row)) if row.resource_id else None
    accounts.used(connection, account, backend, project)
    try:
        with connection.begin_nested():
            connection.execute(
                insert(cloud_resources).values(
                    account=account,
                    kind=need.kind,
                    identity=need.identity,
                    backend=backend,
                    project=project,
                    instance_id=None if need.shared else instance_id,
                    resource_id="",
                    ours=1,
                    data=dict(need.data),
                    created_at=now(),
                )
            )
    except IntegrityError:
        pass  # a shared one, which somebody else stored in this moment
    return None


def made(connection: Connection, account: str, need: ResourceRequest, resource: CloudResource) -> None:
    """It is there. Its row keeps the identity that it was stored under, whatever the vendor calls it."""
    values = {"resource_id": resource.id, "ours": int(resource.ours), "data": {**need.data, **resource.data}}
    connection.execute(update(cloud_resources).where(_key(account, need.kind, need.identity)).values(**values))


def unmade(connection: Connection, account: str, kind: str, identity: str) -> None:
    """A shared thing is not there any more, it seems: it is made or found again at the next use."""
    connection.execute(update(cloud_resources).where(_key(account, kind, identity)).values(resource_id=""))


def detached(connection: Connection, account: str, kind: str, identity: str) -> None:
    connection.execute(delete(cloud_resources).where(_key(account, kind, identity)))


def resource_of(row: CloudResourceRow) -> CloudResource:
    return CloudResource(row.kind, row.identity, row.resource_id, bool(row.ours), row.data)
