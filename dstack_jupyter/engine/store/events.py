"""The event log: who did what to which resource, when and why. Written in the transaction of the deed itself."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, select

from ...models.runs import EventView
from .schema import events, now

# Built once: making an expression costs more than running it, and every move writes one of these.
INSERT = insert(events).values(
    at=now(),
    **{name: bindparam(name) for name in ("actor", "project", "kind", "resource_id", "run_id", "name", "action", "message")},
)


def record(
    connection: Connection,
    *,
    actor: str,
    project: str,
    kind: str,
    resource_id: str,
    action: str,
    run_id: str = "",
    name: str = "",
    message: str = "",
) -> None:
    """Add one line. ``actor`` is a user's name or ``engine``; ``action`` one word; ``message`` a sentence or ''."""
    connection.execute(
        INSERT,
        {
            "actor": actor,
            "project": project,
            "kind": kind,
            "resource_id": resource_id,
            "run_id": run_id,
            "name": name,
            "action": action,
            "message": message,
        },
    )


def read(connection: Connection, *, project: str, after: int, limit: int, run_id: str) -> list[EventView]:
    """Events in order. With ``after`` 0 the newest ``limit``, else the first ``limit`` after that number."""
    query = select(events).where(events.c.project == project, events.c.seq > after)
    if run_id:
        query = query.where(events.c.run_id == run_id)
    order = events.c.seq if after else events.c.seq.desc()
    found = [
        EventView(
            seq=row.seq,
            at=row.at,
            actor=row.actor,
            kind=row.kind,
            id=row.resource_id,
            name=row.name,
            project=row.project,
            action=row.action,
            message=row.message,
        )
        for row in connection.execute(query.order_by(order).limit(limit))
    ]
    return sorted(found, key=lambda event: event.seq)
