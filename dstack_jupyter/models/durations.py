"""Durations as dstack writes them: seconds, or ``<int>`` with one of s m h d w; ``off`` where a limit can be absent."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
LONGEST = 100 * 366 * 86400


def parse_duration(value: object) -> int:
    """Seconds. Raises ValueError: ``1h30m`` and ``1.5h`` are not in the grammar."""
    if isinstance(value, int) and not isinstance(value, bool):
        seconds = value
    else:
        match = re.fullmatch(r"\s*(\d+)\s*([smhdw]?)\s*", value) if isinstance(value, str) else None
        if match is None:
            raise ValueError("expected a duration such as 90s, 30m, 2h, 1d")
        seconds = int(match[1]) * SECONDS.get(match[2], 1)
    if not 0 <= seconds <= LONGEST:
        raise ValueError("a duration cannot be negative or longer than 100 years")
    return seconds


_UNITS = ((86400, "days"), (3600, "h"), (60, "min"), (1, "s"))


def format_duration(seconds: float, *, rough: bool = False) -> str:
    """The two largest units, rounded down: ``42 s``, ``3 min 5 s``, ``24 h``, ``9 days 2 h``. 0 s for less than nothing.

    ``rough`` is for ages that are measured, not set: the largest unit of which there are two, rounded: ``90 s``, ``5 min``.
    """
    rest = max(0, round(seconds) if rough else int(seconds))
    if rough:
        size, unit = next((each for each in _UNITS if rest >= 2 * each[0]), _UNITS[-1])
        return f"{rest / size:.0f} {unit}"
    first = next((at for at, (size, _) in enumerate(_UNITS) if rest >= (2 * size if size == 86400 else size)), len(_UNITS) - 1)
    parts = []
    for size, unit in _UNITS[first : first + 2]:
        count, rest = divmod(rest, size)
        parts += [f"{count} {unit}"] if count else []
    return " ".join(parts) or "0 s"


def _or_off(value: object) -> object:
    """``off`` and false mean no limit, which is stored as ``off``; true and null mean the default."""
    if value is False or value == "off":
        return "off"
    return None if value is None or value is True else parse_duration(value)


Duration = Annotated[int, BeforeValidator(parse_duration)]
DurationOrOff = Annotated[int | str | None, BeforeValidator(_or_off)]
"""Seconds, ``off``, or None for the default."""
IdleDuration = Annotated[int | str | None, BeforeValidator(lambda value: _or_off("off" if value == -1 else value))]
"""As ``DurationOrOff``; -1 is another word for ``off``."""
