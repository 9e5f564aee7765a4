"""The keys that machines are known by, by endpoint (``address:port``)."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, delete, insert, select

from .columns import now
from .schema import host_keys


def pinned(connection: Connection, endpoint: str) -> str:
    return connection.execute(select(host_keys.c.key).where(host_keys.c.endpoint == endpoint)).scalar() or ""


UNPIN = delete(host_keys).where(host_keys.c.endpoint == bindparam("endpoint"))


PIN = insert(host_keys).values(endpoint=bindparam("endpoint"), key=bindparam("key"), pinned_at=now())


def pin(connection: Connection, endpoint: str, key: str) -> None:
    connection.execute(UNPIN, {"endpoint": endpoint})
    connection.execute(PIN, {"endpoint": endpoint, "key": key})


def unpin(connection: Connection, endpoint: str) -> None:
    """Forget a host key, so that the next contact is a first one."""
    connection.execute(UNPIN, {"endpoint": endpoint})


def unpin_key(connection: Connection, endpoint: str, key: str) -> None:
    """Forget the key of a machine that is gone; another machine at its address keeps its pinned key."""
    connection.execute(delete(host_keys).where(host_keys.c.endpoint == endpoint, host_keys.c.key == key))
