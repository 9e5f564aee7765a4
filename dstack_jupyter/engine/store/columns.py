"""What the tables are made of: types of columns, the database's time, and how states are written in a statement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    Float,
    Integer,
    MetaData,
    Text,
    TypeDecorator,
    literal_column,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

metadata = MetaData()

# A log may have more bytes than 32 bits count; SQLite numbers rows only by what it calls INTEGER.
Count = BigInteger().with_variant(Integer(), "sqlite")


def storable(value: str) -> str:
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


class UntrustedText(TypeDecorator[str]):
    """Text that others wrote (a job, a machine, a vendor): characters that a database refuses become a replacement character."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


class now(FunctionElement[float]):  # noqa: N801 - reads as SQL
    """The database's own time, in seconds since the epoch."""

    type = Float()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_postgresql(*_: Any, **__: Any) -> str:
    return "extract(epoch from clock_timestamp())"


def among(column: ColumnElement[str], states: Iterable[str]) -> ColumnElement[bool]:
    """Whether a column holds one of ``states``, which are ours. Written out: as parameters they cost more than the rest."""
    return column.in_([literal_column(f"'{state}'") for state in sorted(states)])


def quoted(states: Any) -> str:
    return ", ".join(f"'{state}'" for state in sorted(states))


def state_known(enum: type[Any]) -> CheckConstraint:
    return CheckConstraint(f"state IN ({quoted(enum)})", name="state_known")
