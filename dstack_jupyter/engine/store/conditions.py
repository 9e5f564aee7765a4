"""Why attempts do not get on at the moment, as the acting engine sees it. Every engine of a store shows this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from .columns import now
from .schema import conditions


def note(connection: Connection, attempt_id: str, type: str, message: str) -> None:
    """One an attempt: a condition of another type takes the place of the one before, the same one keeps its time."""
    mine = conditions.c.attempt_id == attempt_id
    if connection.execute(update(conditions).where(mine, conditions.c.type == type).values(message=message)).rowcount:
        return
    connection.execute(delete(conditions).where(mine))
    connection.execute(insert(conditions).values(attempt_id=attempt_id, type=type, message=message, since=now()))


def clear(connection: Connection, attempt_id: str) -> None:
    connection.execute(delete(conditions).where(conditions.c.attempt_id == attempt_id))


def of(connection: Connection, attempt_ids: Sequence[str]) -> list[Row[Any]]:
    """(attempt_id, type, message, since) of the ``attempt_ids`` that have a condition."""
    if not attempt_ids:
        return []
    return list(connection.execute(select(conditions).where(conditions.c.attempt_id.in_(attempt_ids))))
