"""Offers grouped by GPU, and on demand by backend, region or count: which there are, where, and from which price."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..models.errors import ConfigurationError
from ..models.offers import UNAVAILABLE, grouped
from .frame import per_gpu
from .rows import Rows

KEYS = {key: grouped(key) for key in ("gpu", "backend", "region", "count")}


def parse(text: str) -> tuple[str, ...]:
    """The keys of ``--group-by gpu[,backend,region,count]``. Raises ConfigurationError."""
    keys = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    wrong = [word for word in keys if word not in KEYS]
    if wrong or "gpu" not in keys:
        what = f"{wrong[0]!r} is no key" if wrong else "gpu must be among the keys"
        raise ConfigurationError(f"--group-by {text}: {what}", hint=f"keys: {', '.join(KEYS)}, as in gpu,backend")
    if "region" in keys and "backend" not in keys:
        raise ConfigurationError(f"--group-by {text}: region needs backend", hint="write gpu,backend,region")
    return keys


def group(rows: Rows, by: tuple[str, ...]) -> dict[str, list[Any]]:
    """Plain columns, one row a group, the cheapest GPU first: the keys, ``spot`` (which kinds there are), the lowest and the
    highest price of one GPU (NaN if none is known), those of ``backends``, ``regions``, ``gpu_counts`` that are no keys, how many
    offers, and how many of them may be had. Offers without a GPU are in no group.
    """
    rows = rows.take(np.flatnonzero(rows.numbers["gpu_count"] > 0))
    names = [name for key in KEYS if key in by for name in KEYS[key]]
    ids = rows.keys(names)
    each, _ = per_gpu(rows)
    text = rows.text["availability"]
    free = ~text.flags(tuple(UNAVAILABLE))[text.codes]
    groups: list[dict[str, Any]] = []
    sort = np.argsort(ids, kind="stable")
    starts = np.flatnonzero(np.diff(ids[sort], prepend=-1))
    for part in np.split(sort, starts[1:]) if len(rows) else []:
        some = rows.take(part)
        row: dict[str, Any] = {name: value[0] for name, value in rows.take(part[:1]).lists().items() if name in names}
        prices = each[part][~np.isnan(each[part])]
        spots = {True: "spot", False: "on-demand"}
        row["spot"] = ", ".join(spots[bool(kind)] for kind in np.unique(some.numbers["spot"]))
        row["price_per_gpu"] = float(prices.min()) if len(prices) else float("nan")
        row["price_per_gpu_max"] = float(prices.max()) if len(prices) else float("nan")
        for key, column in (("backend", "backend"), ("region", "region")):
            if key not in by:
                row[f"{column}s"] = ", ".join(sorted(filter(None, some.text[column].compact().words)))
        if "count" not in by:
            row["gpu_counts"] = ", ".join(str(count) for count in np.unique(some.numbers["gpu_count"]).tolist())
        row["offers"], row["available"] = len(part), int(free[part].sum())
        groups.append(row)
    groups.sort(key=lambda row: (np.isnan(row["price_per_gpu"]), row["price_per_gpu"]))
    keys = [*names, "spot", "price_per_gpu", "price_per_gpu_max", *(f"{k}s" for k in ("backend", "region") if k not in by)]
    keys += ["gpu_counts"] if "count" not in by else []
    return {key: [row[key] for row in groups] for key in [*keys, "offers", "available"]}
