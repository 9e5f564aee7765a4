"""Log bytes: a chunk and the new offset in one transaction, so that nothing is stored twice or skipped (R13)."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select, update

from .columns import now
from .schema import attempts, log_chunks


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes [offset, offset + length) of an attempt's log; ``data`` None is a gap, ``reason`` says why."""

    attempt_id: str
    offset: int
    length: int
    at: float
    data: bytes | None
    reason: str = ""


def append(connection: Connection, attempt_id: str, offset: int, data: bytes) -> bool:
    """Store ``data`` at ``offset`` if that is where the log ends; False (and nothing stored) if not.

    The guard is the update itself: a second reader, or a late answer of a stalled one, changes no row.
    """
    return _advance(connection, attempt_id, offset, len(data), data, "")


def gap(connection: Connection, attempt_id: str, offset: int, length: int, reason: str) -> bool:
    """Store that ``length`` bytes from ``offset`` are gone."""
    return _advance(connection, attempt_id, offset, length, None, reason)


def _advance(connection: Connection, attempt_id: str, offset: int, length: int, data: bytes | None, reason: str) -> bool:
    if length <= 0:
        return True
    moved = connection.execute(
        update(attempts).where(attempts.c.id == attempt_id, attempts.c.log_offset == offset).values(log_offset=offset + length)
    )
    if moved.rowcount != 1:
        return False
    connection.execute(
        insert(log_chunks).values(attempt_id=attempt_id, offset=offset, length=length, at=now(), data=data, reason=reason)
    )
    return True


def read(connection: Connection, attempt_id: str, offset: int, limit: int) -> list[Chunk]:
    """Chunks from byte ``offset``, the first cut to begin there, about ``limit`` bytes and at least one if there is any."""
    first = (
        select(func.max(log_chunks.c.offset))
        .where(log_chunks.c.attempt_id == attempt_id, log_chunks.c.offset <= offset)
        .scalar_subquery()
    )
    query = (
        select(log_chunks)
        .where(log_chunks.c.attempt_id == attempt_id, log_chunks.c.offset >= func.coalesce(first, 0))
        .order_by(log_chunks.c.offset)
    )
    chunks: list[Chunk] = []
    total = 0
    # Row by row: a following reader must not load a log of gigabytes to take its first piece.
    with connection.execute(query.execution_options(yield_per=16)) as rows:
        for row in rows:
            skip = max(0, offset - row.offset)
            if skip >= row.length:
                continue
            data = None if row.data is None else bytes(row.data[skip:])
            chunks.append(Chunk(attempt_id, row.offset + skip, row.length - skip, row.at, data, row.reason))
            total += len(data or b"")
            if total >= limit:
                break
    return chunks
