"""Dollars as people read them."""

from __future__ import annotations

import math


def format_dollars(value: float | None, decimals: int = 2) -> str:
    """``$0``, ``$12.50``, ``$0.0040``; ``?`` for None and NaN.

    Sums have two decimals, and four below a cent. Prices are compared by all that they have: ``decimals=4`` for ``$2.4999``.
    """
    if value is None or math.isnan(value):
        return "?"
    if value == 0:
        return "$0"
    whole, _, cents = f"{value:,.{max(decimals, 4 if abs(value) < 0.01 else 0)}f}".partition(".")
    if decimals > 2:
        cents = cents[:2] + cents[2:].rstrip("0")
    return f"${whole}.{cents}"
