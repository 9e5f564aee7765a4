"""Columns that are sealed on their way into the database and opened on their way out, and what keeps their key right.

The vault belongs to a database's dialect, which SQLAlchemy makes anew for each of its engines; a statement that meets a sealed
column without one fails rather than writing clear text.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    func,
    insert,
    select,
    type_coerce,
    update,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import IntegrityError

from ..keys.vault import MARK, Vault

_vaults: WeakKeyDictionary[Dialect, Vault] = WeakKeyDictionary()

CHECK = "check"
"""The row whose opening shows that this engine has the right key."""


class Sealed(TypeDecorator[Any]):
    """Anything that JSON holds, sealed as text. ``column`` is authenticated with it. NULL stays NULL."""

    impl = Text
    cache_ok = True

    def __init__(self, column: str) -> None:
        super().__init__()
        self.column = column

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else _vaults[dialect].seal(json.dumps(value), self.column)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else json.loads(_vaults[dialect].open(value, self.column))


def attach(engine: Engine, vault: Vault) -> None:
    """The vault of all connections of ``engine``."""
    _vaults[engine.dialect] = vault


def sealed_columns(table: Table) -> list[Column[Any]]:
    return [column for column in table.columns if isinstance(column.type, Sealed)]


def verify(connection: Connection, vault: Vault, table: Table) -> None:
    """Called while the store opens, after migrations. Raises ConfigurationError for a wrong or missing key.

    A store that nothing was sealed in yet gets its check value; a missing key is made only then, never beside sealed values.
    """
    query = select(table.c.value).where(table.c.name == CHECK)
    raw = connection.execute(select(type_coerce(table.c.value, Text)).where(table.c.name == CHECK)).scalar()
    vault.load(create=raw is None)
    if raw is None:
        keep(connection, table, CHECK, lambda: CHECK)
    connection.execute(query).scalar_one()


def keep(connection: Connection, table: Table, name: str, make: Callable[[], str]) -> str:
    """A value that is made once for a store, whoever is first."""
    query = select(table.c.value).where(table.c.name == name)
    value = connection.execute(query).scalar()
    if value is None:
        try:
            with connection.begin_nested():
                connection.execute(insert(table).values(name=name, value=make()))
        except IntegrityError:
            pass  # another engine was first
        value = connection.execute(query).scalar_one()
    return str(value)


def run_seed() -> str:
    return secrets.token_hex(32)


def _foreign(column: Column[Any], key: str) -> Any:
    """Rows whose value another key sealed."""
    raw = type_coerce(column, Text)
    return raw.is_not(None) & ~raw.startswith(f"{MARK}.{key}.", autoescape=True)


def reseal(connection: Connection, tables: list[Table], key: str, count: int) -> int:
    """Seal up to ``count`` values of each column anew that ``key`` did not seal. Returns how many there were."""
    done = 0
    for table in tables:
        identity = list(table.primary_key)
        for column in sealed_columns(table):
            query = select(*identity, column).where(_foreign(column, key)).limit(count).with_for_update()
            change = (
                update(table)
                .where(*(each == bindparam(f"b_{each.name}") for each in identity))
                .values({column: bindparam("b_value", type_=column.type)})
            )
            for row in connection.execute(query).all():
                values = {f"b_{each.name}": value for each, value in zip(identity, row, strict=False)}
                connection.execute(change, {**values, "b_value": row[-1]})
                done += 1
    return done


def count_foreign(connection: Connection, tables: list[Table], key: str) -> int:
    """The number of values that other keys than ``key`` sealed."""
    counts = [
        connection.execute(select(func.count()).select_from(table).where(_foreign(column, key))).scalar_one()
        for table in tables
        for column in sealed_columns(table)
    ]
    return sum(counts)
