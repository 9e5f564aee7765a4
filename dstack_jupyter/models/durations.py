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
        found = re.fullmatch(r"\s*(\d+)\s*([smhdw]?)\s*", value) if isinstance(value, str) else None
        if found is None:
            raise ValueError("expected a duration such as 90s, 30m, 2h, 1d")
        seconds = int(found[1]) * SECONDS.get(found[2], 1)
    if not 0 <= seconds <= LONGEST:
        raise ValueError("a duration cannot be negative or longer than 100 years")
    return seconds


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
