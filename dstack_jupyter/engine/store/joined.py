"""Rows of several tables in one answer: each statement costs a way to the database and back, however little it asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Select, Table, select

from .rows import READERS


class Joined:
    """The columns of some tables in one query; ``split`` gives its rows back as one typed row of each table (``rows``).

    A row of a table that an outer join had no partner for is None. Every table has a primary key of one column, its first.
    """

    def __init__(self, *tables: Table) -> None:
        self.query: Select[Any] = select(*tables)
        self._parts: list[tuple[int, int, Any]] = []
        begin = 0
        for table in tables:
            end = begin + len(table.columns)
            self._parts.append((begin, end, READERS[table.name]))
            begin = end

    def split(self, row: Row[Any] | Sequence[Any]) -> tuple[Any, ...]:
        return tuple(None if row[begin] is None else read(row[begin:end]) for begin, end, read in self._parts)
