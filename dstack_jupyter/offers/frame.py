"""The offers table as a plain pandas.DataFrame: the columns of design §4, text columns categorical."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..models.runs import Missing
from .table import COLUMNS, DERIVED, TEXT, OfferTable

if TYPE_CHECKING:
    import pandas

NUMBERS = ("cpus", "memory_gb", "disk_gb", "gpu_memory_gb", "price")


def to_frame(table: OfferTable, missing: list[Missing], query: dict[str, Any] | None = None) -> pandas.DataFrame:
    """One row an offer. ``df.attrs``: ``missing`` (backends without rows and why), ``query``, ``empty`` (why there is no row)."""
    import pandas as pd

    frame = pd.DataFrame({name: table.columns.get(name, []) for name in COLUMNS if name not in DERIVED})
    for name in NUMBERS:
        frame[name] = frame[name].astype("float64")
    frame["gpu_count"] = frame["gpu_count"].astype("int64")
    frame["spot"] = frame["spot"].astype("bool")
    gpus = frame["gpu_count"].where(frame["gpu_count"] > 0)
    frame["price_per_gpu"] = frame["price"] / gpus
    frame["price_per_gpu_gb"] = frame["price_per_gpu"] / frame["gpu_memory_gb"].where(frame["gpu_memory_gb"] > 0)
    frame["price_date"] = pd.to_datetime(frame["price_date"].replace("", None))
    for name in TEXT:
        frame[name] = frame[name].astype("category")
    frame = frame[list(COLUMNS)]
    frame.attrs["missing"] = [line.model_dump() for line in missing]
    frame.attrs["query"] = query or {}
    frame.attrs["empty"] = table.why_empty()
    return frame
