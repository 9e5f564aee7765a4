"""Tables for a shell: as wide as the terminal and coloured there; whole and plain where something else reads them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TextIO

from ..models.offers import OWN_MACHINES
from . import ansi
from .words import money

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
        return money(value) if column in MONEY else f"{value:g}"
    # A message may hold what a job printed: its control sequences are not for this terminal.
    return ansi.strip(str(value)).replace("\n", " ") if str(value) not in ("<NA>", "NaT") else ""


def print_table(columns: Sequence[str], rows: Iterable[Mapping[str, object]], file: TextIO) -> None:
    """Print rows below the names of those columns that hold anything. Nothing is cut where ``file`` is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[cell(name, row.get(name), unknown=_unknown(row)) for name in columns] for row in rows]
    shown = [at for at in range(len(columns)) if any(line[at] for line in cells)]
    if not cells or not shown:
        print("nothing to show", file=file)
        return
    numbers = {at for at in shown if all(_is_number(line[at]) for line in cells)}
    width = os.get_terminal_size(file.fileno()).columns if file.isatty() else NO_TERMINAL
    console = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for at in shown:
        whole = columns[at] in WHOLE or not file.isatty()
        table.add_column(columns[at], justify="right" if at in numbers else "left", overflow="fold", no_wrap=whole)
    for line in cells:
        # Text, never markup: names and messages may come from a job.
        table.add_row(*(Text(line[at], style=STYLES.get(line[at], "")) for at in shown))
    with console.capture() as lines:
        console.print(table)
    print("\n".join(line.rstrip() for line in lines.get().splitlines()), file=file)


def _unknown(row: Mapping[str, object]) -> str:
    """What stands for money that is not known: what a machine costs that is rented, never nothing."""
    backend = row.get("backend")
    return "?" if isinstance(backend, str) and backend not in ("", *OWN_MACHINES) else ""


def _is_number(text: str) -> bool:
    if text == "?":
        return True
    try:
        float(text.removeprefix("$") or 0)
    except ValueError:
        return False
    return True
