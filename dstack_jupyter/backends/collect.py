"""The offers of all backends in one table, and for each backend without a row the reason: silence is a defect (D8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..models.errors import BackendNotAvailable, DstackJupyterError
from ..models.gpus import near_names
from ..models.runs import NOT_AVAILABLE_YET, Missing
from ..offers.table import OfferTable, Requirements
from . import live, registry
from .base import Columns


def collect(
    wanted: Requirements, known: Mapping[str, Columns] | None = None, *, seconds: float = 0.0
) -> tuple[OfferTable, list[Missing]]:
    """(offers that fit, cheapest first; backends without a row and why, those that had offers before the filters first).

    ``known`` are the columns of backends that the caller knows better. ``seconds`` is how long it waits for sources that have
    never answered. Needs no engine. Raises NotFound for a backend's name that nobody knows.
    """
    asked = tuple(dict.fromkeys(registry.entry(name)[0] for name in wanted.backends))
    known = known or {}
    everything = OfferTable()
    silent: list[Missing] = []
    answers, errors = live.ask([name for name in asked or registry.entries if name not in known], seconds)
    for name in asked or tuple(registry.entries):
        if name in errors:
            silent.append(_line_of(name, errors[name]))
            continue
        columns = known[name] if name in known else answers[name][1].columns
        if columns is not None:
            everything.extend(columns)
        if columns is not None and not columns["backend"]:
            silent.append(Missing(backend=name, reason="it has no offers"))
        elif name in answers and (line := live.line_of(*answers[name])) is not None:
            silent.append(line)
    found = everything.query(replace(wanted, backends=asked))
    hint = _near_gpus(wanted)
    filtered = [
        Missing(backend=name, reason=f"none of its offers passes `{by}`", hint=hint if by.startswith("gpu") else "")
        for name, by in found.removed_by.items()
    ]
    return found, filtered + silent


def _line_of(name: str, error: DstackJupyterError) -> Missing:
    if isinstance(error, BackendNotAvailable) and not registry.entry(name)[1].module:
        return Missing(backend=name, reason=NOT_AVAILABLE_YET, hint=error.hint)
    return Missing(backend=name, reason=error.message, hint=error.hint)


def _near_gpus(wanted: Requirements) -> str:
    """A hint where a GPU's name is not known but looks like one that is."""
    gpu = wanted.resources.gpu
    near = [match for name in (gpu.name if gpu is not None else None) or () for match in near_names(name)]
    return f"did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
