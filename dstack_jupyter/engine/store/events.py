"""The event log: who did what to which resource, when and why. Written in the transaction of the deed itself.

Lines are collected during a transaction and written as its last act. On PostgreSQL that is under a lock: the numbers of a
sequence are handed out in one order and committed in another, and who follows by number would miss those that come late. So
the numbers rise in the order in which they become visible. Taken last, the lock waits for nothing and can lock nobody out.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Connection, Engine, bindparam, event, insert, select, text

from ...models.engine import EventView
from .columns import now, storable
from .schema import events

COLUMNS = ("actor", "project", "kind", "resource_id", "run_id", "name", "action", "message")
# Built once: making an expression costs more than running it, and every move writes one of these.
INSERT = insert(events).values(
    at=now(),
    **{name: bindparam(name) for name in COLUMNS},
)

UNDER_LOCK = text(
    """
    WITH alone AS MATERIALIZED (SELECT pg_advisory_xact_lock(1684668418))
    INSERT INTO events (at, actor, project, kind, resource_id, run_id, name, action, message)
    SELECT extract(epoch from clock_timestamp()), line.*
    FROM alone, json_to_recordset(:lines)
      AS line(actor text, project text, kind text, resource_id text, run_id text, name text, action text, message text)
    """
).bindparams(bindparam("lines", type_=JSON))
"""All lines in one statement, however many: the lock is there before the first number is drawn."""
PENDING, MARKS = "dj-events", "dj-event-marks"


def attach(engine: Engine) -> None:
    """Collect and write the lines of each transaction of this SQLAlchemy engine. Called once by the store."""

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.info[PENDING], connection.info[MARKS] = [], {}

    @event.listens_for(engine, "savepoint")
    def mark(connection: Connection, name: str | None) -> None:
        connection.info[MARKS][name] = len(connection.info[PENDING])

    @event.listens_for(engine, "rollback_savepoint")
    def forget(connection: Connection, name: str, context: None) -> None:
        del connection.info[PENDING][connection.info[MARKS].get(name, 0) :]

    @event.listens_for(engine, "commit")
    def write(connection: Connection) -> None:
        lines, connection.info[PENDING] = connection.info[PENDING], []
        if lines:
            if connection.dialect.name == "postgresql":
                connection.execute(UNDER_LOCK, {"lines": [{**line, "message": storable(line["message"])} for line in lines]})
            else:
                connection.execute(INSERT, lines)


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
    lines: list[dict[str, Any]] = connection.info[PENDING]
    lines.append(
        {
            "actor": actor,
            "project": project,
            "kind": kind,
            "resource_id": resource_id,
            "run_id": run_id,
            "name": name,
            "action": action,
            "message": message,
        }
    )


def read(connection: Connection, *, project: str, after: int, limit: int, run_id: str) -> list[EventView]:
    """Events in order. With ``after`` 0 the newest ``limit``, else the first ``limit`` after that number."""
    query = select(events).where(events.c.project == project, events.c.seq > after)
    if run_id:
        query = query.where(events.c.run_id == run_id)
    order = events.c.seq if after else events.c.seq.desc()
    listed = [
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
    return sorted(listed, key=lambda event: event.seq)
