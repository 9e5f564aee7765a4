"""The accounts at vendors that this installation ever used, and what stands in them that no row needs. Each function is a
transaction's part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, bindparam, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from ...backends.base import Thing
from ...models.states import InstanceState
from ..steps import sweep as steps
from . import events
from .columns import now
from .schema import attached, fleets, instances, rented, runs
from .schema_accounts import accounts, strays

CHUNK = 500
"""Identities that one statement asks for."""
THERE = select(accounts.c.mark).where(accounts.c.mark == bindparam("mark"))


def used(connection: Connection, mark: str, backend: str, project: str) -> None:
    """Part of the transaction before the first call that may make something in an account: from then on it is swept."""
    if connection.execute(THERE, {"mark": mark}).scalar() is not None:
        return
    try:
        with connection.begin_nested():
            values = {"mark": mark, "backend": backend, "project": project, "problem": ""}
            connection.execute(insert(accounts).values(first_used_at=now(), **values))
    except IntegrityError:
        pass  # somebody else stored it in this moment


def marks(connection: Connection) -> list[str]:
    return list(connection.execute(select(accounts.c.mark).order_by(accounts.c.first_used_at)).scalars())


def every(connection: Connection) -> list[Row[Any]]:
    """All accounts, in the order of their first use."""
    return list(connection.execute(select(accounts).order_by(accounts.c.first_used_at)))


@dataclass(frozen=True, slots=True)
class State:
    """How an account stands. ``since``: seconds since its last whole sweep, or its first use; ``asked``: since the last create,
    None: there was none. ``ours_to_end``: strays that sweeps end."""

    account: Row[Any]
    since: float
    asked: float | None
    renting: int
    strays: int
    ours_to_end: int


def state(connection: Connection, mark: str) -> State | None:
    row = connection.execute(select(accounts, now().label("current")).where(accounts.c.mark == mark)).one_or_none()
    if row is None:
        return None
    machines = select(strays.c.verdict).where(strays.c.account == mark, strays.c.kind == "instance")
    verdicts = list(connection.execute(machines).scalars())
    since = row.current - (row.first_used_at if row.swept_at is None else row.swept_at)
    last = connection.execute(select(func.max(rented.c.asked_at)).where(rented.c.account == mark)).scalar()
    asked = None if last is None else row.current - last
    return State(row, since, asked, renting(connection, row), len(verdicts), sum(verdict != "unknown" for verdict in verdicts))


def left(connection: Connection, mark: str) -> int:
    """Machines of an account that no row needs, as of its last look."""
    machines = (strays.c.account == mark) & (strays.c.kind == "instance")
    return connection.execute(select(func.count()).select_from(strays).where(machines)).scalar_one()


def renting(connection: Connection, account: Row[Any]) -> int:
    """How many rented machines of an account have not ended."""
    found = instances.join(rented, rented.c.instance_id == instances.c.id)
    return connection.execute(select(func.count()).select_from(found).where(_living_of(account))).scalar_one()


def _living_of(account: Row[Any]) -> ColumnElement[bool]:
    """Rented machines that have not ended, of this account or of its place: an account with another key has another mark."""
    place = (instances.c.backend == account.backend) & (instances.c.project == account.project)
    return or_(rented.c.account == account.mark, place) & (instances.c.state != InstanceState.TERMINATED)


def claim(connection: Connection, mark: str, last: float | None, seconds: float) -> bool:
    """Take the account for one sweep, for ``seconds`` at most. False: another engine is at it, or has swept it since ``last``."""
    free = or_(accounts.c.claimed_until.is_(None), accounts.c.claimed_until <= now())
    same = accounts.c.swept_at.is_not_distinct_from(last)
    taken = update(accounts).where(accounts.c.mark == mark, free, same).values(claimed_until=now() + seconds)
    return connection.execute(taken).rowcount == 1


def failed(connection: Connection, mark: str, problem: str) -> None:
    """It could not be asked: nothing is concluded, whatever is known of it stays (R12)."""
    connection.execute(update(accounts).where(accounts.c.mark == mark).values(problem=problem, claimed_until=None))


# --- what the store knows of what a vendor lists ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Known:
    """Read in one transaction, after the lists: ``owners`` by identity, ``things`` rows, ``strays`` as they stood."""

    now: float
    owners: dict[str, steps.Owner]
    things: list[steps.Row]
    strays: dict[tuple[str, str], Row[Any]]
    living: list[Row[Any]]
    """Rented machines that have not ended: the columns of ``LIVING``."""

    def first_seen(self) -> dict[str, float]:
        """Since when each machine among the strays is seen."""
        return {thing: row.first_seen_at for (kind, thing), row in self.strays.items() if kind == "instance"}


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
        rented.c.account,
        rented.c.rented_at,
        rented.c.seen,
        func.coalesce(runs.c.name, fleets.c.name).label("user"),
    )
    .join(rented, rented.c.instance_id == instances.c.id)
    .join(fleets, fleets.c.id == instances.c.fleet_id)
    .outerjoin(runs, runs.c.id == fleets.c.run_id)
    .order_by(instances.c.created_at)
)


def known(connection: Connection, account: Row[Any], listed: Sequence[str], things: Sequence[Thing]) -> Known:
    """``listed``: the identities of an account's machines, ``things`` what else is there."""
    owners: dict[str, steps.Owner] = {}
    names = sorted(set(listed))
    query = select(instances.c.id, instances.c.identity, instances.c.state, instances.c.price, rented.c.vendor)
    query = query.outerjoin(rented, rented.c.instance_id == instances.c.id)
    for begin in range(0, len(names), CHUNK):
        for row in connection.execute(query.where(instances.c.identity.in_(names[begin : begin + CHUNK]))):
            ended = row.state == InstanceState.TERMINATED
            owners[row.identity] = steps.Owner(row.id, ended, row.vendor, row.price)
    living: list[Row[Any]] = list(connection.execute(LIVING.where(_living_of(account))))
    found = connection.execute(select(strays).where(strays.c.account == account.mark))
    return Known(
        now=connection.execute(select(now())).scalar_one(),
        owners=owners,
        things=_things(connection, account.mark, things),
        strays={(row.kind, row.thing): row for row in found},
        living=living,
    )


def _things(connection: Connection, mark: str, there: Iterable[Thing]) -> list[steps.Row]:
    """Rows of this account, and those of others for what is listed here: after a change of key an account has a new mark."""
    pairs = sorted({(each.kind, each.identity) for each in there})
    also = tuple_(attached.c.kind, attached.c.identity).in_(pairs) if pairs else attached.c.account == mark
    query = (
        select(attached, instances.c.state, (now() - attached.c.created_at).label("age"))
        .outerjoin(instances, instances.c.id == attached.c.instance_id)
        .where(or_(attached.c.account == mark, also))
    )
    return [
        steps.Row(
            account=row.account,
            kind=row.kind,
            identity=row.identity,
            id=row.thing,
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


def store(connection: Connection, mark: str, machines: Sequence[steps.Stray], things: Sequence[Thing], swept: bool) -> None:
    """The strays of a whole look; those that are there no more are forgotten. ``swept``: it was a sweep that we claimed."""
    connection.execute(select(accounts.c.mark).where(accounts.c.mark == mark).with_for_update()).one()
    before = {(row.kind, row.thing): row for row in connection.execute(select(strays).where(strays.c.account == mark))}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for each in machines:
        machine = each.machine
        price = each.owner.price if each.owner is not None else None
        values = {"verdict": each.verdict, "said": machine.said, "region": machine.region, "price": price}
        rows["instance", each.key] = {"identity": machine.identity, **values}
    for thing in things:
        values = {"verdict": "unknown", "said": "", "region": "", "price": None}
        rows[thing.kind, steps.key_of(thing.id)] = {"identity": thing.identity, **values}
    connection.execute(delete(strays).where(strays.c.account == mark))
    current = connection.execute(select(now())).scalar_one()
    for (kind, thing_key), found in rows.items():
        old = before.get((kind, thing_key))
        if old is None:
            _stray(connection, mark, kind, thing_key, found)
        times = {"first_seen_at": old.first_seen_at if old else current, "told_at": old.told_at if old else None}
        connection.execute(insert(strays).values(account=mark, kind=kind, thing=thing_key, seen_at=current, **times, **found))
    done: dict[str, Any] = {"swept_at": now(), "claimed_until": None} if swept else {}
    connection.execute(update(accounts).where(accounts.c.mark == mark).values(problem="", **done))


def _stray(connection: Connection, mark: str, kind: str, key: str, found: dict[str, Any]) -> None:
    """Something was seen that nobody needs: an event, once."""
    account = connection.execute(select(accounts).where(accounts.c.mark == mark)).one()
    _event(connection, account, kind, key, found["identity"], "engine", "stray", WORDS[found["verdict"]])


WORDS = {
    "ended": "the vendor has it after its end: the sweeps end it",
    "double": "the vendor has a second machine of this name: the sweeps end it",
    "unknown": "the vendor has it and this store never knew it: `%dstack cleanup` ends it",
}


def told(connection: Connection, account: Row[Any], kind: str, key: str, identity: str, actor: str, why: str) -> None:
    """The vendor accepted to end a stray. The first time it is an event."""
    mine = (strays.c.account == account.mark) & (strays.c.kind == kind) & (strays.c.thing == key)
    row = connection.execute(select(strays.c.told_at).where(mine)).one_or_none()
    connection.execute(update(strays).where(mine).values(told_at=now()))
    if row is not None and row.told_at is not None:
        return
    _event(connection, account, kind, key, identity, actor, "swept" if actor == "engine" else "cleaned", why)


def _event(
    connection: Connection, account: Row[Any], kind: str, key: str, identity: str, actor: str, action: str, message: str
) -> None:
    owner = connection.execute(select(instances.c.id, instances.c.project).where(instances.c.identity == identity)).one_or_none()
    events.record(
        connection,
        actor=actor,
        project=owner.project if owner is not None else account.project,
        kind="instance" if kind == "instance" else "thing",
        resource_id=owner.id if owner is not None else key[:16],
        name=identity[:64],
        action=action,
        message=message,
    )


def free(connection: Connection, account: Row[Any], kind: str, identity: str) -> bool:
    """A shared thing is to be taken away: from now on the next machine makes it anew. False while one that lives may need it."""
    if renting(connection, account):
        return False
    connection.execute(update(attached).where(attached.c.kind == kind, attached.c.identity == identity).values(thing=""))
    return True
