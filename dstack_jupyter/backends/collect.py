"""The offers of all backends in one order, and for each backend without a row the reason: silence is a defect (D8).

Rows come from what the caller knows, from live sources, and for `%dstack offers` alone from the shipped list prices of backends
that are not configured or not built: nothing can be launched there, so plans and runs never see them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..models.errors import BackendNotAvailable, DstackJupyterError
from ..models.gpus import near_names
from ..models.offers import NOT_AVAILABLE_YET, Missing
from ..offers import snapshot
from ..offers.requirements import Requirements
from ..offers.table import OfferTable, Selection, merge
from . import live, registry
from .base import Columns
from .found import Found

LISTED = "list prices of %s; nothing can be launched there"


def collect(
    wanted: Requirements,
    known: Mapping[str, Columns] | None = None,
    idle: Mapping[str, Columns] | None = None,
    *,
    seconds: float = 0.0,
    catalog: bool = False,
) -> Found:
    """The offers that fit, cheapest first; offers that cannot be had now come last.

    ``known`` are the columns of backends that the caller knows better; ``idle`` are columns of cloud instances that exist
    already, added to their backends' offers. ``seconds`` is the time to wait for sources without a fresh answer; 0 waits for no
    network. ``catalog``: list prices stand in for backends without offers of their own. Needs no engine; for any thread. Raises
    NotFound for a backend's name that nobody knows.
    """
    asked = tuple(dict.fromkeys(registry.entry(name)[0] for name in wanted.backends))
    wanted, known = replace(wanted, backends=asked), known or {}
    names = asked or tuple(registry.entries)
    answers, errors = live.ask([name for name in names if name not in known], seconds)
    tables: list[OfferTable] = []
    lines: dict[str, Missing] = {}
    for name in names:
        table, line = _of(name, known, answers, errors)
        if table is None and catalog and name in snapshot.SHIPPED:
            table = snapshot.shipped(name)
            why = f" ({line.reason})" if line is not None else ""
            line = Missing(backend=name, reason=LISTED % " – ".join(_ends(snapshot.dates(table))) + why)
        if table is not None and len(table):
            tables.append(table)
        if line is not None:
            lines[name] = line
    tables += [live.checked(name, columns, 0.0) for name, columns in (idle or {}).items() if name in names]
    hits = [table.query(wanted) for table in tables]
    present = {name for hit in hits for name, count in hit.backends().items() if count}
    removed = {name: by for name, by in _removed(hits).items() if name not in present}
    near = _near_gpus(wanted, tables)
    filtered = [
        Missing(backend=name, reason=f"none of its offers passes `{by}`", hint=near if by.startswith("gpu") else "")
        for name, by in removed.items()
    ]
    return Found(
        rows=merge(hits),
        wanted=wanted,
        missing=filtered + [line for name, line in lines.items() if name not in present and name not in removed],
        notes=[line for name, line in lines.items() if name in present],
        empty="" if present else _why_empty(removed, near),
        pending=any(answer.pending for _, answer in answers.values()),
    )


def words(column: str, backends: Sequence[str] = ()) -> list[str]:
    """What a text column can hold, for completion: list prices, and live answers that there are. Asks nobody."""
    names = [name for name in registry.entries if not backends or name in backends]
    tables = [snapshot.shipped(name) for name in names if name in snapshot.SHIPPED] + live.known_tables(names)
    return sorted({word for table in tables for word in table.rows.text[column].words if word})


def _of(
    name: str,
    known: Mapping[str, Columns],
    answers: Mapping[str, tuple[live.Live, live.Answer]],
    errors: Mapping[str, DstackJupyterError],
) -> tuple[OfferTable | None, Missing | None]:
    """(a backend's own table if it has one, the line about the backend if it needs one)."""
    if name in known:
        table: OfferTable | None = live.checked(name, known[name], 0.0)
        line = None
    elif name in answers:
        table, line = answers[name][1].table, live.line_of(*answers[name])
    else:
        return None, _line_of(name, errors[name])
    if table is not None and not len(table) and line is None:
        line = Missing(backend=name, reason="it has no offers")
    return table, line


def _line_of(name: str, error: DstackJupyterError) -> Missing:
    if isinstance(error, BackendNotAvailable) and not registry.entry(name)[1].module:
        return Missing(backend=name, reason=NOT_AVAILABLE_YET, hint=error.hint)
    return Missing(backend=name, reason=error.message, hint=error.hint)


def _ends(days: Sequence[str]) -> Sequence[str]:
    return days if len(days) < 3 else (days[0], days[-1])


def _removed(hits: Sequence[Selection]) -> dict[str, str]:
    """For each backend that a filter left without a row, the filter that took its last one."""
    return {name: by for hit in hits for name, by in hit.removed_by().items()}


def _why_empty(removed: Mapping[str, str], near: str) -> str:
    if not removed:
        return "no backend has an offer"
    blame = ", ".join(dict.fromkeys(f"`{name}`" for name in removed.values()))
    sentence = f"no offer fits: {blame} removed the last {'one' if len(removed) == 1 else 'ones'}"
    return f"{sentence}; {near}" if near and any(by.startswith("gpu") for by in removed.values()) else sentence


def _near_gpus(wanted: Requirements, tables: Sequence[OfferTable]) -> str:
    """A hint for a GPU name that no table has but that looks like a known name."""
    gpu = wanted.resources.gpu
    near: list[str] = []
    for name in (gpu.name if gpu is not None else None) or ():
        if not any(name.lower() in table.rows.text["gpu_name"].by_lower for table in tables):
            near += near_names(name)
    return f"did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
