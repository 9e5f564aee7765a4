"""Tables on disk: the shipped list prices of public clouds, one compressed file a backend, and how such files are written.

A file is an npz archive without pickles. Columns that go together are stored once for each combination (a machine type, a
place, an origin) with a number a row; prices are whole millionths of a dollar an hour.
"""

from __future__ import annotations

import io
import time
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..models.offers import COLUMNS, TEXT, UNAVAILABLE
from .rows import NUMBERS, Array, Rows, Text
from .table import OfferTable

FORMAT = 1
SHIPPED = ("aws", "azure", "gcp")
OLD = 365 * 86400.0
"""Seconds after which a list price is flagged: vendors have changed prices by half within a year."""
MICRO = 1e6
NO_PRICE = np.uint32(2**32 - 1)
GROUPS = {
    group: tuple(name for name, column in COLUMNS.items() if column.stored == group) for group in ("machine", "place", "origin")
}


def write(rows: Rows, file: str | Path | IO[bytes]) -> None:
    """Write rows, in an order that compresses well. Raises ValueError for a price that is no whole millionth or too large."""
    arrays: dict[str, Array] = {"format": np.array([FORMAT])}
    ids: dict[str, Array] = {}
    for group, names in GROUPS.items():
        ids[group] = rows.keys(names)
        first = np.unique(ids[group], return_index=True)[1]
        for name in names:
            chosen = np.array(rows.text[name].take(first).values(), np.str_) if name in TEXT else rows.numbers[name][first]
            arrays[f"{group}.{name}"] = chosen
    price = rows.numbers["price"]
    micro = np.round(price * MICRO)
    if (np.abs(micro - price * MICRO) > 1e-3).any() or (micro >= NO_PRICE).any():
        raise ValueError("prices must be whole millionths of a dollar below 4,294 dollars")
    by = np.lexsort((ids["place"], ids["machine"], ids["origin"]))
    for group in GROUPS:
        arrays[group] = ids[group][by].astype(np.uint16 if ids[group].max(initial=0) < 2**16 else np.uint32)
    arrays["price"] = np.where(np.isnan(micro), NO_PRICE, micro).astype(np.uint32)[by]
    np.savez_compressed(file, allow_pickle=False, **arrays)


def read(data: bytes) -> OfferTable:
    """The table of rows as written. Raises ValueError, KeyError for data of another kind."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        if int(arrays["format"][0]) != FORMAT:
            raise ValueError("the file is of another format")
        micro = arrays["price"]
        unavailable = np.isin(arrays["origin.availability"], list(UNAVAILABLE))[arrays["origin"]]
        # One sort of plain numbers, the row in their low half, is five times as quick as sorting rows by two columns.
        keys = micro.astype(np.uint64) << np.uint64(31) | np.arange(len(micro), dtype=np.uint64)
        keys |= unavailable.astype(np.uint64) << np.uint64(63)
        keys.sort()
        by = (keys & np.uint64(2**31 - 1)).astype(np.intp)
        micro = micro[by]
        price = micro / MICRO
        price[micro == NO_PRICE] = np.nan
        text: dict[str, Text] = {}
        numbers: dict[str, Array] = {"price": price}
        for group, names in GROUPS.items():
            ids = arrays[group][by].astype(np.intp)
            for name in names:
                values = arrays.get(f"{group}.{name}")
                if values is None:  # written before there was this column
                    continue
                if name in NUMBERS:
                    numbers[name] = values.astype(NUMBERS[name])[ids]
                else:
                    text[name] = Text.of(values.tolist()).take(ids)
    return OfferTable(Rows.whole(text, numbers, len(price)), ordered=True)


@cache
def shipped(backend: str) -> OfferTable:
    """The list prices of one of ``SHIPPED``, those older than a year flagged. Read once a process."""
    data = files(__package__).joinpath("prices", f"{backend}.npz").read_bytes()
    rows = read(data).rows
    text = {**rows.text, "reason": flagged(rows, time.time()), "origin": Text.constant("catalog", len(rows))}
    return OfferTable(Rows(text, rows.numbers, len(rows)), ordered=True)


def flagged(rows: Rows, now: float) -> Text:
    """The column ``reason`` with a remark where the price is older than a year at ``now`` (Unix time)."""
    limit = time.strftime("%Y-%m-%d", time.gmtime(now - OLD))
    dates, reasons = rows.text["price_date"], rows.text["reason"]
    remarks = ["price of more than a year ago" if date < limit else "" for date in dates.words]
    words = ["; ".join(filter(None, (reason, remark))) for remark in remarks for reason in reasons.words]
    known: dict[str, int] = {}
    into = np.array([known.setdefault(word, len(known)) for word in words], np.int16)
    return Text(into[dates.codes.astype(np.int32) * len(reasons.words) + reasons.codes], list(known))


def dates(table: OfferTable) -> list[str]:
    """The days that the prices of a table are of, oldest first."""
    days: list[Any] = sorted(table.rows.text["price_date"].words)
    return days
