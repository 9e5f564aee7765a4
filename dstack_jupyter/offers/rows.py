"""Rows of offers as numpy columns: text as numbers that point into a list of words, the rest as plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models import offers
from ..models.offers import EMPTY, TEXT, OfferView, origin_of

Array = NDArray[Any]
Index = slice | NDArray[np.intp]

DTYPES: dict[type, type[np.generic]] = {float: np.float64, int: np.int32, bool: np.bool_}
NUMBERS = {name: DTYPES[kind] for name, kind in offers.NUMBERS.items()}
"""The columns that are no text, as numpy keeps them."""


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
        codes_of: dict[str, list[int]] = {}
        for code, word in enumerate(self.words):
            codes_of.setdefault(word.lower(), []).append(code)
        return codes_of

    def flags(self, names: Sequence[str], *, lower: bool = False) -> Array:
        """Which words are among ``names``: bool, one a word."""
        matches = np.zeros(len(self.words), np.bool_)
        for name in names:
            for code in self.by_lower.get(name.lower(), ()):
                matches[code] = lower or self.words[code] == name
        return matches

    def take(self, rows: Index) -> Text:
        """The same words in other rows."""
        taken = Text(self.codes[rows], self.words)
        if "by_lower" in self.__dict__:
            taken.__dict__["by_lower"] = self.by_lower
        return taken

    def map(self, function: Callable[[str], str]) -> Text:
        """What a function makes of each word, in the same rows."""
        known: dict[str, int] = {}
        into = np.array([known.setdefault(function(word), len(known)) for word in self.words] or [0], np.int32)
        return Text(_small(into[self.codes], len(known)), list(known))

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
        """From plain columns; an absent one is empty or unknown. Raises ValueError, TypeError for wrong columns."""
        count = len(columns.get("backend", ()))
        text = {name: Text.of(columns[name]) for name in TEXT if name in columns}
        numbers: dict[str, Array] = {name: np.array(columns[name], NUMBERS[name]) for name in NUMBERS if name in columns}
        if any(len(each.codes) != count for each in text.values()) or any(each.shape != (count,) for each in numbers.values()):
            raise ValueError("columns differ in length")
        return cls.whole(text, numbers, count)

    @classmethod
    def whole(cls, text: Mapping[str, Text], numbers: Mapping[str, Array], count: int) -> Rows:
        """From columns; an absent one is empty or unknown, an absent origin is that of the backend."""
        backend = text.get("backend", Text.constant("", count))
        absent = {"origin": backend.map(origin_of)} if "origin" not in text else {}
        return cls(
            {name: text.get(name) or absent.get(name) or Text.constant(EMPTY[name], count) for name in TEXT},
            {name: numbers[name] if name in numbers else np.full(count, EMPTY[name], kind) for name, kind in NUMBERS.items()},
            count,
        )

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
        groups = np.zeros(len(self), np.int64)
        for name in names:
            values = self.text[name].codes if name in self.text else np.unique(self.numbers[name], return_inverse=True)[1]
            # Numbered anew after each column, so that the product of two counts never overflows.
            groups = np.unique(groups * (int(values.max(initial=0)) + 1) + values, return_inverse=True)[1]
        return groups

    def lists(self) -> dict[str, list[Any]]:
        """Plain columns again; what is not known is NaN."""
        columns: dict[str, list[Any]] = {name: each.values() for name, each in self.text.items()}
        return {**columns, **{name: each.tolist() for name, each in self.numbers.items()}}

    def views(self) -> list[OfferView]:
        """One object a row: for plans, not for tables. What is not known is None."""
        columns = self.lists()
        return [OfferView(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
