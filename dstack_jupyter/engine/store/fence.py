"""Fencing: whoever acts for a resource holds a lease of it, and each transaction first proves that lease (R7).

One mechanism for both databases. The engine sets ``acting`` around a reconciler's call, so no reconciler can forget it; the
store checks it inside the transaction. With SQLite one lease stands for the whole store, and every write carries it; with
PostgreSQL a fleet's lease stands for its runs, attempts and instances, and what the API stores carries none.
"""

from __future__ import annotations

from collections.abc import Collection
from contextvars import ContextVar
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select

from ...models.errors import LostLease
from .columns import now
from .schema import leases

STORE = "store"
"""The resource of the one lease of a SQLite store."""


@dataclass(frozen=True, slots=True)
class Fence:
    """The right of ``owner`` (an engine's life, not a machine) to act for ``resource``, taken ``token`` times by now."""

    resource: str
    owner: str
    token: int

    def lost(self) -> LostLease:
        return LostLease(
            "another engine acts here now; this one changed nothing", hint="try again: the engine that acts is found by itself"
        )


acting: ContextVar[Fence | None] = ContextVar("acting", default=None)
"""For whom the present task writes; set by the engine around each call of a reconciler, by nobody else."""

HELD = (
    select(leases.c.resource, leases.c.owner, leases.c.token)
    .where(leases.c.resource.in_(bindparam("resources", expanding=True)), leases.c.expires_at > now())
    # Until we commit nobody may take these: who takes skips locked rows. SQLite's writers are alone anyway.
    .with_for_update(read=True)
)


LENGTHS = (1, 2, 4, 8, 16, 32, 64)
"""How many leases one proof asks for; a batch of the store carries no more calls than the last."""


def lost(connection: Connection, fences: Collection[Fence]) -> set[Fence]:
    """The ``fences`` that no longer hold. First statement of a write transaction; the others hold until it ends."""
    if not fences:
        return set()
    resources = sorted({fence.resource for fence in fences})
    # Few lengths make few statements, which the database keeps prepared.
    length = next(length for length in LENGTHS if len(resources) <= length)
    rows = connection.execute(HELD, {"resources": resources + resources[-1:] * (length - len(resources))})
    return set(fences) - {Fence(*row) for row in rows}
