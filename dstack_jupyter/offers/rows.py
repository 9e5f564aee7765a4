"""Rows of offers as numpy columns: text as numbers that point into a list of words, the rest as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.offers import OfferView

Array = NDArray[Any]
Index = slice | NDArray[np.intp]

TEXT = (
    "backend", "region", "zone", "instance_type", "gpu_vendor", "gpu_name", "cpu_arch", "availability", "reason", "source",
    "price_date",
)  # fmt: skip
UNKNOWN = {"cpus": np.nan, "memory_gb": np.nan, "disk_gb": np.nan, "gpu_memory_gb": 0.0, "price": np.nan}
"""Columns of float64 and what stands for an absent one."""
NUMBERS: dict[str, type[np.generic]] = {
    **dict.fromkeys(UNKNOWN, np.float64),
    "gpu_count": np.int32,
    "spot": np.bool_,
    "blocks": np.int32,
    "total_blocks": np.int32,
}
ABSENT: dict[str, Any] = {**UNKNOWN, "gpu_count": 0, "spot": False, "blocks": 1, "total_blocks": 1, "availability": "unknown"}


class Text:
    """One column of text: ``codes`` (int16 or int32, one a row) point into ``words``, which are all different."""

    __slots__ = ("__dict__", "codes", "words")

    def __init__(self, codes: Array, words: Sequence[str]) -> None:
        self.codes = codes
        self.words = words

    @classmethod
    def of(cls, values: Sequence[str]) -> Text:
        known: dict[str, int] = {}
        codes = np.fromiter((known.setdefault(value, len(known)) for value in values), np.int32, len(values))
        if not all(isinstance(word, str) for word in known):
            raise TypeError("text was expected")
        return cls(_small(codes, len(known)), list(known))

    @classmethod
    def constant(cls, word: str, count: int) -> Text:
        return cls(np.zeros(count, np.int16), [word])

    @cached_property
    def by_lower(self) -> dict[str, list[int]]:
        """Codes of the words by their lower case."""
        found: dict[str, list[int]] = {}
        for code, word in enumerate(self.words):
            found.setdefault(word.lower(), []).append(code)
        return found

    def flags(self, names: Sequence[str], *, lower: bool = False) -> Array:
        """Which words are among ``names``: bool, one a word."""
        found = np.zeros(len(self.words), np.bool_)
        for name in names:
            for code in self.by_lower.get(name.lower(), ()):
                found[code] = lower or self.words[code] == name
        return found

    def take(self, rows: Index) -> Text:
        """The same words in other rows."""
        found = Text(self.codes[rows], self.words)
        if "by_lower" in self.__dict__:
            found.__dict__["by_lower"] = self.by_lower
        return found

    def compact(self) -> Text:
        """The same text with no word that no row has; the words keep their order."""
        used = np.zeros(len(self.words), np.bool_)
        used[self.codes] = True
        kept = np.flatnonzero(used)
        if len(kept) == len(self.words):
            return self
        codes = np.cumsum(used, dtype=np.int32)[self.codes] - 1
        return Text(_small(codes, len(kept)), [self.words[code] for code in kept.tolist()])

    def values(self) -> list[str]:
        words = self.words
        return [words[code] for code in self.codes.tolist()]


def _small(codes: Array, words: int) -> Array:
    return codes.astype(np.int16) if words < 2**15 else codes.astype(np.int32)


class Rows:
    """Offers in an order of their own. Columns: those of ``TEXT`` and of ``NUMBERS``, all of one length; never changed."""

    __slots__ = ("count", "numbers", "text")

    def __init__(self, text: Mapping[str, Text], numbers: Mapping[str, Array], count: int) -> None:
        self.text = text
        self.numbers = numbers
        self.count = count

    def __len__(self) -> int:
        return self.count

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[Any]]) -> Rows:
        """From plain columns; an absent one is empty or unknown. Raises ValueError, TypeError for what is no such column."""
        count = len(columns.get("backend", ()))
        text = {name: Text.of(columns[name]) if name in columns else Text.constant(ABSENT.get(name, ""), count) for name in TEXT}
        numbers: dict[str, Array] = {
            name: np.array(columns[name], kind) if name in columns else np.full(count, ABSENT[name], kind)
            for name, kind in NUMBERS.items()
        }
        if any(len(each.codes) != count for each in text.values()) or any(each.shape != (count,) for each in numbers.values()):
            raise ValueError("columns differ in length")
        return cls(text, numbers, count)

    @classmethod
    def none(cls) -> Rows:
        return cls.of({})

    def take(self, rows: Index) -> Rows:
        """Some rows, in the order of ``rows``."""
        text = {name: each.take(rows) for name, each in self.text.items()}
        numbers = {name: each[rows] for name, each in self.numbers.items()}
        return Rows(text, numbers, len(numbers["price"]))

    def first(self, count: int | None) -> Rows:
        """The first ``count`` rows; all of them for None."""
        return self if count is None or count >= len(self) else self.take(slice(0, max(0, count)))

    @classmethod
    def concat(cls, parts: Sequence[Rows]) -> Rows:
        """All rows of several, one after the other."""
        parts = [part for part in parts if len(part)]
        if len(parts) < 2:
            return parts[0] if parts else cls.none()
        text: dict[str, Text] = {}
        for name in TEXT:
            known: dict[str, int] = {}
            codes = []
            for each in (part.text[name].compact() for part in parts):
                into = np.array([known.setdefault(word, len(known)) for word in each.words], np.int32)
                codes.append(into[each.codes])
            text[name] = Text(_small(np.concatenate(codes), len(known)), list(known))
        numbers = {name: np.concatenate([part.numbers[name] for part in parts]) for name in NUMBERS}
        return cls(text, numbers, sum(map(len, parts)))

    def keys(self, names: Sequence[str]) -> Array:
        """A number for each different combination of these columns, from 0 without gaps, one a row."""
        found = np.zeros(len(self), np.int64)
        for name in names:
            values = self.text[name].codes if name in self.text else np.unique(self.numbers[name], return_inverse=True)[1]
            # Numbered anew after each column, so that the product of two counts never overflows.
            found = np.unique(found * (int(values.max(initial=0)) + 1) + values, return_inverse=True)[1]
        return found

    def lists(self) -> dict[str, list[Any]]:
        """Plain columns again; what is not known is NaN."""
        found: dict[str, list[Any]] = {name: each.values() for name, each in self.text.items()}
        return {**found, **{name: each.tolist() for name, each in self.numbers.items()}}

    def views(self) -> list[OfferView]:
        """One object a row: for plans, not for tables. What is not known is None."""
        columns = self.lists()
        for name in UNKNOWN:
            columns[name] = [None if value != value else value for value in columns[name]]  # noqa: PLR0124 - NaN
        names = [name for name in columns if name in OfferView.model_fields]
        return [OfferView(**dict(zip(names, row, strict=True))) for row in zip(*(columns[name] for name in names), strict=True)]
