"""Tables for a shell: as wide as the terminal and coloured there; whole and plain where something else reads them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TextIO

from ..models.money import format_dollars
from ..models.offers import OWN_MACHINES
from . import ansi

STYLES = {
    "available": "green",
    "busy": "yellow",
    "does not end": "bold red",
    "done": "green",
    "failed": "red",
    "idle": "green",
    "not known whether it was made": "bold yellow",
    "off": "bold yellow",
    "off, still billed": "bold red",
    "ready": "green",
    "running": "cyan",
    "granted": "green",
    "missing": "red",
    "unknown": "yellow",
    "not available": "dim",
    "not configured": "dim",
    "not needed": "dim",
    "not supported yet": "dim",
}
"""How a cell is coloured that holds just this word."""
MONEY = frozenset({"price", "price_per_gpu", "price_per_gpu_gb", "cost"})
WHOLE = frozenset({"machine", "state", "since", "price", "cost"})
"""Columns that stay whole in a narrow terminal while others fold: a name that is broken cannot be copied."""
NO_TERMINAL = 10_000
"""Columns of what is not a terminal: a line a row, so that grep and cut work."""


def cell(column: str, value: object, *, unknown: str = "") -> str:
    """One value as people read it; ``unknown`` for money that is not known, '' for other things that are not."""
    if value is None or value is False or (isinstance(value, float) and math.isnan(value)):
        return unknown if column in MONEY else ""
    if value is True:
        return "yes"
    if isinstance(value, datetime):  # pandas' Timestamp is one; its NaT is one too, and unequal to itself
        return f"{datetime.fromtimestamp(value.timestamp()):%Y-%m-%d %H:%M:%S}" if value == value else ""  # noqa: PLR0124
    if isinstance(value, float):
        return format_dollars(value) if column in MONEY else f"{value:g}"
    # A message may hold what a job printed: its control sequences are not for this terminal.
    return ansi.strip(str(value)).replace("\n", " ") if str(value) not in ("<NA>", "NaT") else ""


def print_table(columns: Sequence[str], rows: Iterable[Mapping[str, object]], file: TextIO) -> None:
    """Print rows below the names of those columns that hold anything. Nothing is cut where ``file`` is no terminal."""
    cells = [[cell(name, row.get(name), unknown=_unknown(row)) for name in columns] for row in rows]
    shown = [at for at in range(len(columns)) if any(line[at] for line in cells)]
    if not cells or not shown:
        print("nothing to show", file=file)
        return
    width = os.get_terminal_size(file.fileno()).columns if file.isatty() else NO_TERMINAL
    lines = text_table([columns[at] for at in shown], [[line[at] for at in shown] for line in cells], width)
    print("\n".join(lines), file=file)


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int = NO_TERMINAL) -> list[str]:
    """The lines of a table: numbers to the right, words coloured by ``STYLES``; folded to ``width`` if that is a terminal's."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colour = width != NO_TERMINAL
    console = Console(width=width, force_terminal=colour, highlight=False, markup=False, emoji=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for at, name in enumerate(head):
        right = all(_is_number(row[at]) for row in rows)
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name in WHOLE or not colour)
    for row in rows:
        # Text, never markup: names and messages may come from a job.
        table.add_row(*(Text(each, style=STYLES.get(each, "")) for each in row))
    with console.capture() as lines:
        console.print(table)
    return [line.rstrip() for line in lines.get().splitlines()]


def _unknown(row: Mapping[str, object]) -> str:
    """What stands for money that is not known: what a machine costs that is rented, never nothing."""
    backend = row.get("backend")
    return "?" if isinstance(backend, str) and backend not in ("", *OWN_MACHINES) else ""


def _is_number(text: str) -> bool:
    if text == "?":
        return True
    try:
        float(text.removeprefix("$").replace(",", "") or 0)
    except ValueError:
        return False
    return True
