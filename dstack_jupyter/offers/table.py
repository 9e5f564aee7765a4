"""Offers as one table of columns (D8): sorted by price once, the rows with GPUs apart, a query is a few masks.

A table never changes. A backend that answers anew makes a new small table; a query asks each table and merges the hits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..models.offers import OWN, UNAVAILABLE
from .requirements import Filter, Requirements, filters
from .rows import Array, Index, Rows, Text

FIRST_STRETCH = 2048
"""Rows that a query for the cheapest few looks at first; each stretch after it is four times as long."""


class _Part:
    """Rows of a table as filters see them."""

    __slots__ = ("index", "rows", "table")

    def __init__(self, table: OfferTable, rows: Rows, index: Index) -> None:
        self.table = table
        self.rows = rows
        self.index = index

    def text(self, name: str) -> Text:
        return self.rows.text[name].take(self.index)

    def number(self, name: str) -> Array:
        return self.rows.numbers[name][self.index]

    def own(self) -> Array | None:
        if not self.table.has_own:
            return None
        text = self.text("origin")
        return text.flags(OWN)[text.codes]


EVERY = slice(None)


class OfferTable:
    """Offers in order: those that can be had before the others, cheapest first, unknown prices last."""

    def __init__(self, rows: Rows, *, ordered: bool = False) -> None:
        """``rows`` in any order, unless they are ``ordered`` as ``order`` would."""
        self.rows = rows if ordered else rows.take(order(rows))
        for text in self.rows.text.values():
            text.by_lower  # noqa: B018 - made here once, taken over by every part of the column
        self.has_own = bool(self.rows.text["origin"].flags(OWN).any())
        self._with_gpu = np.flatnonzero(self.rows.numbers["gpu_count"] > 0)
        self._gpu = self.rows.take(self._with_gpu)

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[Any]]) -> OfferTable:
        """From plain columns. Raises ValueError, TypeError."""
        return cls(Rows.of(columns))

    def __len__(self) -> int:
        return len(self.rows)

    def query(self, wanted: Requirements, limit: int | None = None) -> Selection:
        """The rows that fit, in the table's order; the first ``limit`` of them."""
        wishes = filters(wanted)
        gpus = any(wish.gpus_only for wish in wishes)
        rows = self._gpu if gpus else self.rows
        if limit is None:
            rows_that_fit = np.flatnonzero(self._mask(rows, EVERY, wishes))
        else:
            rows_that_fit = self._first(rows, wishes, limit)
        return Selection(self, self._with_gpu[rows_that_fit] if gpus else rows_that_fit, wishes)

    def _mask(self, rows: Rows, index: Index, wishes: Sequence[Filter]) -> Array:
        part = _Part(self, rows, index)
        mask = np.ones(len(part.number("price")), np.bool_)
        for wish in wishes:
            mask &= wish.fits(part)
        return mask

    def _first(self, rows: Rows, wishes: Sequence[Filter], limit: int) -> Array:
        parts: list[Array] = []
        begin, length, count = 0, FIRST_STRETCH, 0
        while begin < len(rows) and count < limit:
            hits = np.flatnonzero(self._mask(rows, slice(begin, begin + length), wishes)) + begin
            parts.append(hits)
            begin, length, count = begin + length, length * 4, count + len(hits)
        return np.concatenate(parts)[:limit] if parts else np.zeros(0, np.intp)

    @cached_property
    def backends(self) -> Array:
        """How many rows each word of the column ``backend`` has."""
        text = self.rows.text["backend"]
        return np.bincount(text.codes, minlength=len(text.words))


class Selection:
    """The rows of a table that fit a query."""

    def __init__(self, table: OfferTable, index: Array, wishes: Sequence[Filter]) -> None:
        self.table = table
        self.index = index
        self._wishes = wishes

    def __len__(self) -> int:
        return len(self.index)

    def rows(self) -> Rows:
        return self.table.rows.take(self.index)

    def backends(self) -> dict[str, int]:
        """How many rows of each backend fit."""
        text = self.table.rows.text["backend"]
        counts = np.bincount(text.codes[self.index], minlength=len(text.words))
        return {word: int(count) for word, count in zip(text.words, counts, strict=True) if count}

    def removed_by(self) -> dict[str, str]:
        """For each backend of the table that has no row left, the filter that took its last one."""
        text = self.table.rows.text["backend"]
        lost = self.table.backends > 0
        lost[text.codes[self.index]] = False
        if not lost.any():
            return {}
        index, removed = np.flatnonzero(lost[text.codes]), {}
        for wish in self._wishes:
            index = index[wish.fits(_Part(self.table, self.table.rows, index))]
            left = np.zeros(len(lost), np.bool_)
            left[text.codes[index]] = True
            removed.update({text.words[code]: wish.name for code in np.flatnonzero(lost & ~left).tolist()})
            lost &= left
        return removed


def order(rows: Rows) -> Array:
    """The order of a table for these rows; rows that are equal keep theirs."""
    text, price = rows.text["availability"], rows.numbers["price"]
    unavailable = text.flags(tuple(UNAVAILABLE))
    if not unavailable.any():
        return np.argsort(price, kind="stable")
    return np.lexsort((price, unavailable[text.codes]))


def merge(selections: Sequence[Selection]) -> Rows:
    """The hits of several tables as rows in order."""
    hits = [hit for hit in selections if len(hit)]
    rows = Rows.concat([hit.rows() for hit in hits])
    return rows if len(hits) < 2 else rows.take(order(rows))
