"""The accounts at vendors that this installation ever used, and the orphans in them. Each function is a
transaction's part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from ...backends.base import CloudResource
from ...models.states import InstanceState
from ..steps import sweep as steps
from . import events
from .columns import now
from .rows import AccountRow, Observed, OrphanRow, account_row, orphan_row
from .schema import cloud_instances, cloud_resources, fleets, instances, runs
from .schema_accounts import accounts, orphans

CHUNK = 500
"""Identities that one statement asks for."""
THERE = select(accounts.c.account_id).where(accounts.c.account_id == bindparam("account_id"))


def used(connection: Connection, account_id: str, backend: str, project: str) -> None:
    """Part of the transaction before the first call that may make something in an account: from then on sweeps look there."""
    if connection.execute(THERE, {"account_id": account_id}).scalar() is not None:
        return
    try:
        with connection.begin_nested():
            values = {"account_id": account_id, "backend": backend, "project": project, "problem": ""}
            connection.execute(insert(accounts).values(first_used_at=now(), **values))
    except IntegrityError:
        pass  # somebody else stored it in this moment


def marks(connection: Connection) -> list[str]:
    return list(connection.execute(select(accounts.c.account_id).order_by(accounts.c.first_used_at)).scalars())


def every(connection: Connection) -> list[AccountRow]:
    """All accounts, in the order of their first use."""
    return [account_row(row) for row in connection.execute(select(accounts).order_by(accounts.c.first_used_at))]


@dataclass(frozen=True, slots=True)
class State:
    """How an account stands. ``since``: seconds since its last whole sweep, or its first use; ``asked``: since the last create,
    None: there was none. ``ours_to_end``: orphans that sweeps end."""

    account: AccountRow
    since: float
    asked: float | None
    renting: int
    orphans: int
    ours_to_end: int


def state(connection: Connection, account_id: str) -> State | None:
    row = connection.execute(select(accounts, now().label("current")).where(accounts.c.account_id == account_id)).one_or_none()
    if row is None:
        return None
    machines = select(orphans.c.verdict).where(orphans.c.account == account_id, orphans.c.kind == "instance")
    verdicts = list(connection.execute(machines).scalars())
    since = row.current - (row.first_used_at if row.swept_at is None else row.swept_at)
    last = connection.execute(
        select(func.max(cloud_instances.c.create_sent_at)).where(cloud_instances.c.account == account_id)
    ).scalar()
    asked = None if last is None else row.current - last
    account = account_row(row)
    ours = sum(verdict != "unknown" for verdict in verdicts)
    return State(account, since, asked, renting(connection, account), len(verdicts), ours)


def left(connection: Connection, account_id: str) -> int:
    """Machines of an account that no row needs, as of its last look."""
    machines = (orphans.c.account == account_id) & (orphans.c.kind == "instance")
    return connection.execute(select(func.count()).select_from(orphans).where(machines)).scalar_one()


def renting(connection: Connection, account: AccountRow) -> int:
    """How many cloud instances of an account have not ended."""
    cloud = instances.join(cloud_instances, cloud_instances.c.instance_id == instances.c.id)
    return connection.execute(select(func.count()).select_from(cloud).where(_living_of(account))).scalar_one()


def _living_of(account: AccountRow) -> ColumnElement[bool]:
    """Cloud instances that have not ended, of this account or its place: another key gives an account another id."""
    place = (instances.c.backend == account.backend) & (instances.c.project == account.project)
    return or_(cloud_instances.c.account == account.account_id, place) & (instances.c.state != InstanceState.TERMINATED)


def claim(connection: Connection, account_id: str, last: float | None, seconds: float) -> bool:
    """Take the account for one sweep, for ``seconds`` at most. False: another engine sweeps, or did since ``last``."""
    free = or_(accounts.c.claimed_until.is_(None), accounts.c.claimed_until <= now())
    same = accounts.c.swept_at.is_not_distinct_from(last)
    taken = update(accounts).where(accounts.c.account_id == account_id, free, same).values(claimed_until=now() + seconds)
    return connection.execute(taken).rowcount == 1


def failed(connection: Connection, account_id: str, problem: str) -> None:
    """Note that an account could not be asked. Nothing is concluded: all that is known stays (R12)."""
    connection.execute(update(accounts).where(accounts.c.account_id == account_id).values(problem=problem, claimed_until=None))


# --- what the store knows of what a vendor lists ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Known:
    """Read in one transaction, after the lists: ``owners`` by identity, ``resources`` rows, ``orphans`` as they stood."""

    now: float
    owners: dict[str, steps.Owner]
    resources: list[steps.Row]
    orphans: dict[tuple[str, str], OrphanRow]
    living: list[LivingMachine]
    """Cloud instances that have not ended."""

    def first_seen(self) -> dict[str, float]:
        """When each orphan machine was first seen."""
        return {resource: row.first_seen_at for (kind, resource), row in self.orphans.items() if kind == "instance"}


@dataclass(frozen=True, slots=True)
class LivingMachine:
    """A cloud instance that has not ended, with the run or fleet that has it (``user``): the columns of ``LIVING``."""

    id: str
    identity: str
    project: str
    backend: str
    state: str
    region: str
    instance_type: str
    price: float | None
    message: str
    account: str
    rented_at: float | None
    observed: Observed
    user: str | None

    @classmethod
    def of(cls, row: Sequence[Any]) -> LivingMachine:
        values = [*row[:11], Observed.of(row[11]), row[12]]
        return cls(*values)


LIVING = (
    select(
        instances.c.id,
        instances.c.identity,
        instances.c.project,
        instances.c.backend,
        instances.c.state,
        instances.c.region,
        instances.c.instance_type,
        instances.c.price,
        instances.c.message,
        cloud_instances.c.account,
        cloud_instances.c.rented_at,
        cloud_instances.c.observed,
        func.coalesce(runs.c.name, fleets.c.name).label("user"),
    )
    .join(cloud_instances, cloud_instances.c.instance_id == instances.c.id)
    .join(fleets, fleets.c.id == instances.c.fleet_id)
    .outerjoin(runs, runs.c.id == fleets.c.run_id)
    .order_by(instances.c.created_at)
)


def known(connection: Connection, account: AccountRow, listed: Sequence[str], resources: Sequence[CloudResource]) -> Known:
    """``listed``: the identities of an account's machines, ``resources`` what else is there."""
    owners: dict[str, steps.Owner] = {}
    names = sorted(set(listed))
    query = select(instances.c.id, instances.c.identity, instances.c.state, instances.c.price, cloud_instances.c.vendor)
    query = query.outerjoin(cloud_instances, cloud_instances.c.instance_id == instances.c.id)
    for begin in range(0, len(names), CHUNK):
        for row in connection.execute(query.where(instances.c.identity.in_(names[begin : begin + CHUNK]))):
            ended = row.state == InstanceState.TERMINATED
            owners[row.identity] = steps.Owner(row.id, ended, row.vendor, row.price)
    rows = connection.execute(LIVING.where(_living_of(account)))
    living = [LivingMachine.of(tuple(row)) for row in rows]
    orphan_rows = connection.execute(select(orphans).where(orphans.c.account == account.account_id))
    return Known(
        now=connection.execute(select(now())).scalar_one(),
        owners=owners,
        resources=_things(connection, account.account_id, resources),
        orphans={(row.kind, row.resource_id): orphan_row(row) for row in orphan_rows},
        living=living,
    )


def _things(connection: Connection, account_id: str, there: Iterable[CloudResource]) -> list[steps.Row]:
    """Rows of this account, and those of others for what is listed here: after a change of key an account has a new id."""
    pairs = sorted({(each.kind, each.identity) for each in there})
    also = (
        tuple_(cloud_resources.c.kind, cloud_resources.c.identity).in_(pairs)
        if pairs
        else cloud_resources.c.account == account_id
    )
    query = (
        select(cloud_resources, instances.c.state, (now() - cloud_resources.c.created_at).label("age"))
        .outerjoin(instances, instances.c.id == cloud_resources.c.instance_id)
        .where(or_(cloud_resources.c.account == account_id, also))
    )
    return [
        steps.Row(
            account=row.account,
            kind=row.kind,
            identity=row.identity,
            id=row.resource_id,
            shared=row.instance_id is None,
            ended=row.state == InstanceState.TERMINATED,
            age=row.age,
            ours=bool(row.ours),
            data=row.data,
            instance_id=row.instance_id,
        )
        for row in connection.execute(query)
    ]


# --- what came of a look ----------------------------------------------------------------------------------------------


def store(
    connection: Connection, account_id: str, machines: Sequence[steps.Orphan], resources: Sequence[CloudResource], swept: bool
) -> None:
    """Store the orphans of a whole look, and forget those that are gone. ``swept``: the look was a sweep that we claimed."""
    connection.execute(select(accounts.c.account_id).where(accounts.c.account_id == account_id).with_for_update()).one()
    before = {
        (row.kind, row.resource_id): row for row in connection.execute(select(orphans).where(orphans.c.account == account_id))
    }
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for each in machines:
        machine = each.machine
        price = each.owner.price if each.owner is not None else None
        values = {"verdict": each.verdict, "raw_status": machine.raw_status, "region": machine.region, "price": price}
        rows["instance", each.key] = {"identity": machine.identity, **values}
    for resource in resources:
        values = {"verdict": "unknown", "raw_status": "", "region": "", "price": None}
        rows[resource.kind, steps.key_of(resource.id)] = {"identity": resource.identity, **values}
    connection.execute(delete(orphans).where(orphans.c.account == account_id))
    current = connection.execute(select(now())).scalar_one()
    for (kind, orphan_key), fields in rows.items():
        old = before.get((kind, orphan_key))
        if old is None:
            _orphan(connection, account_id, kind, orphan_key, fields)
        times = {
            "first_seen_at": old.first_seen_at if old else current,
            "delete_accepted_at": old.delete_accepted_at if old else None,
        }
        connection.execute(
            insert(orphans).values(account=account_id, kind=kind, resource_id=orphan_key, seen_at=current, **times, **fields)
        )
    done: dict[str, Any] = {"swept_at": now(), "claimed_until": None} if swept else {}
    connection.execute(update(accounts).where(accounts.c.account_id == account_id).values(problem="", **done))


def _orphan(connection: Connection, account_id: str, kind: str, key: str, fields: dict[str, Any]) -> None:
    """The event of a new orphan, once."""
    account = account_row(connection.execute(select(accounts).where(accounts.c.account_id == account_id)).one())
    _event(connection, account, kind, key, fields["identity"], "engine", "orphan", WORDS[fields["verdict"]])


WORDS = {
    "ended": "the vendor has it after its end: the sweeps end it",
    "double": "the vendor has a second machine of this name: the sweeps end it",
    "unknown": "the vendor has it and this store never knew it: `%dstack cleanup` ends it",
}


def delete_accepted(
    connection: Connection, account: AccountRow, kind: str, key: str, identity: str, actor: str, why: str
) -> None:
    """Note that the vendor accepted to end an orphan. The first time is an event."""
    mine = (orphans.c.account == account.account_id) & (orphans.c.kind == kind) & (orphans.c.resource_id == key)
    row = connection.execute(select(orphans.c.delete_accepted_at).where(mine)).one_or_none()
    connection.execute(update(orphans).where(mine).values(delete_accepted_at=now()))
    if row is not None and row.delete_accepted_at is not None:
        return
    _event(connection, account, kind, key, identity, actor, "swept" if actor == "engine" else "cleaned", why)


def _event(
    connection: Connection, account: AccountRow, kind: str, key: str, identity: str, actor: str, action: str, message: str
) -> None:
    owner = connection.execute(select(instances.c.id, instances.c.project).where(instances.c.identity == identity)).one_or_none()
    events.record(
        connection,
        actor=actor,
        project=owner.project if owner is not None else account.project,
        kind="instance" if kind == "instance" else "cloud_resource",
        resource_id=owner.id if owner is not None else key[:16],
        name=identity[:64],
        action=action,
        message=message,
    )


def free(connection: Connection, account: AccountRow, kind: str, identity: str) -> bool:
    """A shared cloud resource is to be removed: the next machine makes it anew. False while a living machine may need it."""
    if renting(connection, account):
        return False
    connection.execute(
        update(cloud_resources)
        .where(cloud_resources.c.kind == kind, cloud_resources.c.identity == identity)
        .values(resource_id="")
    )
    return True
