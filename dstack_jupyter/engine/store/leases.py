"""The leases: taken, renewed, given back. All times are the database's, so that no engine's clock matters (R7).

Each taking of a lease raises its token, so every earlier holder's fence falls, whatever that holder believes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, case, delete, func, insert, or_, select, update

from .columns import now
from .fence import STORE, Fence
from .schema import engines, fleets, leases, runs

TTL = 15.0
"""Seconds that a lease of a fleet holds without being renewed."""
FOREVER = 1e15
"""When the lease of a SQLite store ends: the lock of the operating system decides there, and the next holder's token."""
MOST = 200
"""Leases that one transaction takes at most: engines that start together share the leases."""
FORGET = 3600.0
"""Seconds after which an engine that has fallen silent and holds no lease is forgotten."""


def take_store(connection: Connection, owner: str) -> Fence:
    """Take a SQLite store as a whole, whoever had it. The caller holds the home's lock."""
    values = {"owner": owner, "expires_at": FOREVER}
    taken = update(leases).where(leases.c.resource == STORE).values(token=leases.c.token + 1, **values).returning(leases.c.token)
    token = connection.execute(taken).scalar()
    if token is None:
        token = 1
        connection.execute(insert(leases).values(resource=STORE, token=token, **values))
    return Fence(STORE, owner, token)


INSERT = insert(leases).values(token=1, expires_at=now() + TTL, **{name: bindparam(name) for name in ("resource", "owner")})
DELETE = delete(leases).where(leases.c.resource == bindparam("resource"))


def born(connection: Connection, fleet_id: str, owner: str) -> None:
    """A fleet comes into being, leased by the engine that stores it: nobody else takes the lease before that engine has begun.

    ``owner`` '' (SQLite): there are no leases of fleets.
    """
    if owner:
        connection.execute(INSERT, {"resource": fleet_id, "owner": owner})


def gone(connection: Connection, fleet_id: str) -> None:
    """Remove the lease of a fleet that has ended."""
    connection.execute(DELETE, {"resource": fleet_id})


FREE = (
    select(leases.c.resource)
    .join(fleets, fleets.c.id == leases.c.resource)
    .where(
        or_(leases.c.expires_at <= now(), leases.c.owner.like(bindparam("earlier"))),
        leases.c.owner != bindparam("me"),
        or_(fleets.c.place == "", fleets.c.place.like(bindparam("place") + "%")),
    )
    .order_by(leases.c.expires_at)
    .limit(MOST)
    .with_for_update(of=leases, skip_locked=True)
)
TAKE = (
    update(leases)
    .where(leases.c.resource.in_(FREE))
    .values(owner=bindparam("me"), token=leases.c.token + 1, expires_at=now() + TTL)
    .returning(leases.c.resource, leases.c.token)
)
RENEW = (
    update(leases)
    .where(leases.c.owner == bindparam("me"))
    .values(expires_at=now() + TTL)
    .returning(leases.c.resource, leases.c.token)
)


def take(connection: Connection, owner: str, place: str, *, earlier: bool = False) -> list[Fence]:
    """Take leases that nobody holds, at most ``MOST``.

    ``earlier``: also the leases of earlier engines of this home. An owner is a home and a life of its engine, and whoever begins
    a life holds the home's lock. Only then: an engine that wakes from a standstill must take nothing back from its successor.
    """
    before = f"{owner.partition('-')[0]}-%" if earlier else ""
    rows = connection.execute(TAKE, {"me": owner, "earlier": before, "place": place[:16]})
    return [Fence(row.resource, owner, row.token) for row in rows]


def begin(connection: Connection, owner: str, place: str) -> None:
    """An engine's life begins: earlier lives of its home have ended. Engines long silent are forgotten."""
    silent = engines.c.at < now() - FORGET
    old = silent & engines.c.owner.not_in(select(leases.c.owner))
    connection.execute(delete(engines).where(engines.c.owner.like(f"{owner.partition('-')[0]}-%") | old))
    connection.execute(insert(engines).values(owner=owner, place=place, at=now()))


HEARD = update(engines).where(engines.c.owner == bindparam("me")).values(at=now())


def renew(connection: Connection, owner: str) -> list[Fence]:
    """Renew all that this engine holds, in one statement; return those leases. A lease that ran out and was not taken counts."""
    connection.execute(HEARD, {"me": owner})
    return [Fence(row.resource, owner, row.token) for row in connection.execute(RENEW, {"me": owner})]


def release(connection: Connection, owner: str) -> int:
    """A life ends: give all leases back, so that others need not wait. Returns how many there were."""
    connection.execute(delete(engines).where(engines.c.owner == owner))
    return connection.execute(update(leases).where(leases.c.owner == owner).values(owner="", expires_at=now())).rowcount


def acting(connection: Connection, run_ids: Sequence[str]) -> dict[str, str]:
    """For each of ``run_ids`` that an engine acts for, the place of that engine."""
    query = (
        select(runs.c.id, engines.c.place)
        .join(leases, leases.c.resource == runs.c.fleet_id)
        .join(engines, engines.c.owner == leases.c.owner)
        .where(runs.c.id.in_(run_ids), leases.c.expires_at > now())
    )
    return {row.id: row.place for row in connection.execute(query)}


@dataclass(frozen=True, slots=True)
class Absent:
    """A run whose job is a process on a machine whose engine is away."""

    run_id: str
    place: str
    since: float
    """When its last lease ran out or was given back."""


def absent(connection: Connection, run_ids: Sequence[str]) -> list[Absent]:
    """Those of ``run_ids`` that only the engine of one place can act for, while that engine holds no lease of them."""
    query = (
        select(runs.c.id, fleets.c.place, leases.c.expires_at)
        .join(fleets, fleets.c.id == runs.c.fleet_id)
        .join(leases, leases.c.resource == fleets.c.id)
        .where(runs.c.id.in_(run_ids), fleets.c.place != "", leases.c.expires_at <= now())
    )
    return [Absent(row.id, row.place, row.expires_at) for row in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class Heard:
    """An engine of a shared store. ``silent``: seconds since its last report. ``held``: its leases, of which some ran out."""

    owner: str
    place: str
    silent: float
    held: int
    run_out: int


def heard(connection: Connection) -> list[Heard]:
    """All engines of a shared store, silent ones too, each once."""
    query = (
        select(
            engines.c.owner,
            engines.c.place,
            (now() - engines.c.at).label("silent"),
            func.count(leases.c.resource).label("held"),
            func.count(case((leases.c.expires_at <= now(), 1))).label("run_out"),
        )
        .outerjoin(leases, leases.c.owner == engines.c.owner)
        .group_by(engines.c.owner, engines.c.place, engines.c.at)
        .order_by(engines.c.place, engines.c.owner)
    )
    return [Heard(*row) for row in connection.execute(query)]
