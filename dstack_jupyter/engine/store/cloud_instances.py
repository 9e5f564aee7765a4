"""Cloud instances in the store: the calls to a vendor, its answers, and the cloud resources. Each function is a
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
"""Lock an instance: nobody else moves the instance until we commit."""


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
DELETE_ACCEPTED = _change(delete_accepted_at=now())
ENDING = _change(ending_at=func.coalesce(cloud_instances.c.ending_at, now()))
ALIVE = select(attempts.c.id).where(
    attempts.c.run_id == select(attempts.c.run_id).where(attempts.c.id == bindparam("id")).scalar_subquery(),
    ~among(attempts.c.state, ATTEMPT_END),
)
"""The unended attempts of an attempt's run."""
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
    """A cloud instance as the store has it. ``now`` is the database's time, ``resources`` are its own, not shared ones.

    ``held_by`` is the attempt that the instance is made for or that has booked it, ``asked_by`` the fleet of that attempt's
    run. ``unread`` is the attempt if it has had the machine, has not ended, and nobody asked for its end.
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
        """(kind, id) to wake when the instance has changed: its fleet, the fleet of the run that asked for it, the attempt."""
        keys = [("fleet", self.instance.fleet_id), ("fleet", self.asked_by), ("attempt", self.held_by)]
        return [(kind, id) for kind, id in dict.fromkeys(keys) if id is not None]


def load(connection: Connection, instance_id: str) -> CloudInstance:
    """Raises NoResultFound for an instance that is no cloud instance."""
    loaded = connection.execute(LOAD, {"id": instance_id}).one()
    instance, row = BOTH.split(loaded)
    rows = connection.execute(RESOURCES, {"id": instance_id}) if loaded.has_resources else ()
    resources = [cloud_resource_row(row) for row in rows]
    return CloudInstance(instance, row, loaded.current, resources, loaded.held_by, loaded.asked_by, loaded.unread)


def want(connection: Connection, instance_id: str) -> None:
    """Part of the transaction that stores the intent of an instance."""
    connection.execute(insert(cloud_instances).values(instance_id=instance_id, account="", observed={}))


def ask(connection: Connection, instance_id: str, account: str) -> bool:
    """Note that a create is sent now, and to which account: sweeps look there from now on (R10).

    False if the instance is no longer wanted: then no create may be sent (R6).
    """
    row = connection.execute(ALONE, {"id": instance_id}).one()
    if row.state != InstanceState.PENDING:
        return False
    accounts.used(connection, account, row.backend, row.project)
    connection.execute(ASKED, {"b_id": instance_id, "b_account": account})
    return True


def unasked(connection: Connection, instance_id: str, before: float | None) -> None:
    """Note that the last create surely made nothing. ``before``: when the create before was sent; None: there was none."""
    connection.execute(UNASKED, {"b_id": instance_id, "b_create_sent_at": before})


def saw(connection: Connection, instance_id: str, answer: Instance, host_key: str) -> None:
    """Store the vendor's answer about an instance. ``host_key``: as in ``answered``."""
    _tell(connection, SAW, instance_id, answer, host_key)


def answered(connection: Connection, instance_id: str, answer: Instance, host_key: str) -> None:
    """Store the answer to a create: the machine exists, though the vendor's other calls may not know it yet.

    The intent becomes provisioning. ``host_key`` is the key that the machine must show at first contact: pinned before that,
    whatever was known of the address (D6).
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
    """Store the machine's address, and pin the key that the machine must show there."""
    data = instance.data
    address = {"hostname": answer.address, "port": answer.port, "user": answer.user, "identity_file": "", "proxy": None}
    if data.get("address") == address:
        return
    host_keys.pin(connection, f"{answer.address}:{answer.port}", data.get("host_key", host_key))
    inside = answer.internal_address or answer.address
    fresh = {**data, "address": address, "internal_ip_found": inside, "host_key": data.get("host_key", host_key)}
    connection.execute(DATA, {"b_id": instance.id, "b_data": fresh})


def renewed(connection: Connection, instance_id: str, *, next_key: str = "", host_key: str = "") -> None:
    """The key that a machine will show (``next_key``, stored before the call), or shows now (``host_key``, pinned with it)."""
    row = connection.execute(ALONE, {"id": instance_id}).one()
    data = {**row.data, "next_key": next_key}
    if host_key:
        data["host_key"] = host_key
        host_keys.pin(connection, f"{data['address']['hostname']}:{data['address']['port']}", host_key)
    connection.execute(DATA, {"b_id": instance_id, "b_data": data})


def moved(connection: Connection, instance_id: str, account: str) -> None:
    """Move a machine to the account id of another key, which sees the machine, with its cloud resources."""
    row = connection.execute(ALONE, {"id": instance_id}).one()
    accounts.used(connection, account, row.backend, row.project)
    connection.execute(MOVED, {"b_id": instance_id, "b_account": account})
    connection.execute(update(cloud_resources).where(cloud_resources.c.instance_id == instance_id).values(account=account))


def absent(connection: Connection, instance_id: str) -> None:
    """Note that the vendor says now that there is no such machine."""
    connection.execute(ABSENT, {"b_id": instance_id})


def started(connection: Connection, machine: CloudInstance) -> None:
    """Note that the engine asks the vendor from now on to start the machine, to read what a job left."""
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


def delete_accepted(connection: Connection, instance_id: str) -> None:
    """Note that the vendor accepted the delete now."""
    connection.execute(DELETE_ACCEPTED, {"b_id": instance_id})


def ready(connection: Connection, instance_id: str, facts: dict[str, Any]) -> list[str]:
    """The machine can have its job, unless its end was decided. Returns the attempts to wake: all of its run."""
    row = connection.execute(ALONE, {"id": instance_id}).one()
    if row.state != InstanceState.PROVISIONING:
        return []
    moves.move_instance(connection, instance_id, InstanceState.IDLE, data={**row.data, **facts})
    connection.execute(moves.IDLE_AGAIN, {"b_id": instance_id})
    return list(connection.execute(ALIVE, {"id": row.attempt_id}).scalars())


def let_go(connection: Connection, instance_id: str, why: str) -> None:
    """Decide the end of an instance. A second decision changes nothing."""
    moves.move_instance(connection, instance_id, InstanceState.TERMINATING, message=why)
    connection.execute(ENDING, {"b_id": instance_id})


def gone(connection: Connection, instance_id: str, why: str, *, verdict: str = "") -> None:
    """Store an instance's end: the vendor's answer, or the proof that nothing was made. ``verdict`` stays in its row.

    An instance that never had the job leaves an event for whoever waits: the offer, and its outcome.
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
    """End an instance because a user says so, and ``why``: no vendor can be asked any more. Returns the former row."""
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
    """Store what an instance does or lacks at the moment, for people."""
    connection.execute(SAY, {"b_id": instance_id, "b_message": message})


# --- cloud resources ---------------------------------------------------------------------------------------------------


def _key(account: str, kind: str, identity: str) -> Any:
    return (cloud_resources.c.account == account) & (cloud_resources.c.kind == kind) & (cloud_resources.c.identity == identity)


def need(
    connection: Connection, account: str, need: ResourceRequest, *, backend: str, project: str, instance_id: str
) -> CloudResource | None:
    """Store a resource request with its account, before the call. Returns the cloud resource if it is known to exist."""
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
        pass  # another engine stored this shared resource at the same moment
    return None


def made(connection: Connection, account: str, need: ResourceRequest, resource: CloudResource) -> None:
    """Note that a cloud resource exists. Its row keeps the stored identity, whatever the vendor calls the resource."""
    values = {"resource_id": resource.id, "ours": int(resource.ours), "data": {**need.data, **resource.data}}
    connection.execute(update(cloud_resources).where(_key(account, need.kind, need.identity)).values(**values))


def unmade(connection: Connection, account: str, kind: str, identity: str) -> None:
    """A shared cloud resource seems gone: the next use makes or finds it again."""
    connection.execute(update(cloud_resources).where(_key(account, kind, identity)).values(resource_id=""))


def detached(connection: Connection, account: str, kind: str, identity: str) -> None:
    connection.execute(delete(cloud_resources).where(_key(account, kind, identity)))


def resource_of(row: CloudResourceRow) -> CloudResource:
    return CloudResource(row.kind, row.identity, row.resource_id, bool(row.ours), row.data)
