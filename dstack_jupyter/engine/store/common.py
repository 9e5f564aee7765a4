"""What engines that share a store have in common: the installation's id, and the seed of the keys of runs."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from .schema import common


@dataclass(frozen=True, slots=True)
class Common:
    installation: str
    seed: bytes


def load(connection: Connection) -> Common:
    """The same for whoever asks, made by the first. PostgreSQL only; with SQLite these are files of the home."""
    fresh = {"installation": secrets.token_hex(8), "seed": secrets.token_hex(32)}
    for name, value in fresh.items():
        connection.execute(insert(common).values(name=name, value=value).on_conflict_do_nothing())
    found = {row.name: row.value for row in connection.execute(select(common))}
    return Common(found["installation"], bytes.fromhex(found["seed"]))
