"""Offers as text for a shell, and the lines that stand below a table of them. Pure functions over plain columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..models.money import format_dollars
from ..models.offers import COLUMNS, NOT_AVAILABLE_YET, Missing, known
from .html import FONT, MUTED, escape, table
from .terminal import text_table
from .words import number

Columns = Mapping[str, Sequence[Any]]

MOST_REGIONS = 3
"""Regions of a group that a shell names; more are counted."""


def _price(value: float | None) -> str:
    return "free" if value == 0 else format_dollars(value, 4)


def resources(row: Mapping[str, Any]) -> str:
    """``96 CPUs, 1800 GB, 8 × H100 80 GB``."""
    parts = [f"{number(row['cpus'])} CPUs", f"{number(row['memory_gb'])} GB"]
    if row["cpu_arch"] == "arm":
        parts[0] += " (arm)"
    if row["gpu_count"]:
        parts.append(f"{row['gpu_count']} × {row['gpu_name']} {number(row['gpu_memory_gb'])} GB")
    return ", ".join(parts)


def _of_each(row: Mapping[str, Any]) -> str:
    price = known(row["price"])
    return "" if not row["gpu_count"] else _price(None if price is None else price / row["gpu_count"])


Cell = Callable[[Mapping[str, Any]], str]

TOGETHER: dict[str, list[tuple[str, Cell]]] = {
    "zone": [("REGION", lambda row: row["zone"] or row["region"])],
    "cpus": [("RESOURCES", resources)],
    "spot": [("SPOT", lambda row: "spot" if row["spot"] else "")],
    "price": [("$/H", lambda row: _price(row["price"])), ("$/GPU", _of_each)],
}
"""Cells made of several columns, in the place of one of them."""


def _alone(name: str) -> Cell:
    return lambda row: number(row[name]) if isinstance(row[name], float | int | None) else str(row[name])


def _note(row: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (_availability(row["availability"]), row["reason"])))


def offer_cells() -> list[tuple[str, Cell]]:
    """Above each cell its header, in the order of the columns; what else is to be said of the offer stands last."""
    cells: list[tuple[str, Cell]] = []
    for name, column in COLUMNS.items():
        cells += TOGETHER.get(name, [(column.header, _alone(name))] if column.header else [])
    return [*cells, ("", _note)]


def _availability(word: str) -> str:
    return "" if word in ("available", "unknown", "idle") else word.replace("_", " ")


def offers_text(columns: Columns, total: int) -> list[str]:
    """A table of the offers that there are, and how many more of ``total`` there would be."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    cells = offer_cells()
    lines = text_table([name for name, _ in cells], [[cell(row) for _, cell in cells] for row in rows]) if rows else []
    return lines + _more(len(rows), total)


def groups_text(columns: Columns, total: int) -> list[str]:
    rows = [[_cell(name, value) for name, value in zip(columns, row, strict=True)] for row in zip(*columns.values(), strict=True)]
    return (text_table([name.upper().replace("_", " ") for name in columns], rows) if rows else []) + _more(len(rows), total)


def _cell(name: str, value: Any) -> str:
    if isinstance(value, float):
        return _price(value) if name.startswith("price") else number(value)
    count = str(value).count(",") + 1
    return f"{count} {name}" if name == "regions" and count > MOST_REGIONS else str(value)


def _more(shown: int, total: int) -> list[str]:
    return [f"… and {total - shown} more: --max-offers {total} shows all"] if total > shown else []


def beside_text(missing: Sequence[Missing], notes: Sequence[Missing], empty: str) -> list[str]:
    """Why there is no row at all, and what is to be said of each backend: a line for those with the same reason."""
    lines = [empty] if empty else []
    lines += [f"{names}: {sentence}" for sentence, names in _by_sentence(notes).items()]
    return lines + [f"no offers of {names}: {sentence}" for sentence, names in _by_sentence(missing).items()]


def _by_sentence(lines: Sequence[Missing]) -> dict[str, str]:
    """Sentence → names of the backends that it is true of."""
    names_of: dict[str, list[str]] = {}
    for line in lines:
        names_of.setdefault(_sentence(line), []).append(line.backend)
    return {sentence: ", ".join(names) for sentence, names in names_of.items()}


def beside_html(missing: Sequence[Missing], notes: Sequence[Missing], empty: str) -> str:
    """The same as HTML; what this version knows by name only is folded away."""
    later = [line for line in missing if line.reason == NOT_AVAILABLE_YET]
    rows = [(line.backend, line.reason, line.hint) for line in [*missing, *notes] if line not in later]
    parts = [f'<div style="{FONT};margin-top:4px"><b>{escape(empty)}</b></div>' if empty else ""]
    parts.append(table(("backend", "", ""), rows) if rows else "")
    if later:
        inner = table(("backend", "", ""), [(line.backend, line.reason, line.hint) for line in later])
        names = escape(", ".join(line.backend for line in later))
        parts.append(f'<details style="{FONT};{MUTED}"><summary>not available yet: {names}</summary>{inner}</details>')
    return "".join(parts)


def _sentence(line: Missing) -> str:
    return line.reason + (f" ({line.hint})" if line.hint else "")
