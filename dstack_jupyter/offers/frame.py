"""Rows of offers as a plain pandas.DataFrame: the columns of ``OfferView``, text columns categorical."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..models.offers import COLUMNS
from .rows import Array, Rows

if TYPE_CHECKING:
    from pandas import DataFrame as DataFrame  # noqa: PLC0414 - exported to others


def per_gpu(rows: Rows) -> tuple[Array, Array]:
    """(dollars an hour for one GPU, and for one GB of its memory); NaN where there is none or it is not known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        gpus, memory = rows.numbers["gpu_count"], rows.numbers["gpu_memory_gb"]
        each = np.where(gpus > 0, rows.numbers["price"] / gpus, np.nan)
        return each, np.where(memory > 0, each / memory, np.nan)


def to_frame(rows: Rows) -> DataFrame:
    """One row an offer, in the order of ``rows``."""
    import pandas as pd

    columns: dict[str, Any] = {}
    for name, column in COLUMNS.items():
        if not column.shown:
            continue
        if column.date:
            text = rows.text[name].compact()
            columns[name] = np.array([word or "NaT" for word in text.words] or ["NaT"], "datetime64[s]")[text.codes]
        elif name in rows.text:
            text = rows.text[name].compact()
            columns[name] = pd.Categorical.from_codes(text.codes, categories=pd.Index(text.words), validate=False)
        elif rows.numbers[name].dtype == np.int32:
            columns[name] = rows.numbers[name].astype(np.int64)
        else:
            columns[name] = rows.numbers[name]
        if name == "price":
            columns["price_per_gpu"], columns["price_per_gpu_gb"] = per_gpu(rows)
    return pd.DataFrame(columns, copy=False)


def plain_frame(columns: Mapping[str, Sequence[Any]]) -> DataFrame:
    """Plain columns, such as groups, as a frame."""
    import pandas as pd

    return pd.DataFrame(columns)
