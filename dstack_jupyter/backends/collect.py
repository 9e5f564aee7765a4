"""The offers of all backends in one table, and for each backend without a row the reason: silence is a defect (D8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..models.errors import BackendNotAvailable, DstackJupyterError
from ..models.gpus import near_names
from ..models.runs import NOT_AVAILABLE_YET, Missing
from ..offers.table import Columns, OfferTable, Requirements
from . import registry
from .boundary import vendor_errors


def collect(wanted: Requirements, known: Mapping[str, Columns] | None = None) -> tuple[OfferTable, list[Missing]]:
    """(offers that fit, cheapest first; backends without a row and why, those that had offers before the filters first).

    ``known`` are the columns of backends that the caller knows better. Blocks; needs no engine. Raises NotFound for a backend's
    name that nobody knows.
    """
    asked = tuple(dict.fromkeys(registry.entry(name)[0] for name in wanted.backends))
    everything = OfferTable()
    silent: list[Missing] = []
    for name in asked or tuple(registry.entries):
        try:
            with vendor_errors(name):
                columns = known[name] if known and name in known else registry.load(name).offers()
            everything.extend(columns)
            if not columns["backend"]:
                silent.append(Missing(backend=name, reason="it has no offers"))
        except BackendNotAvailable as error:
            silent.append(
                Missing(
                    backend=name,
                    reason=NOT_AVAILABLE_YET if not registry.entry(name)[1].module else error.message,
                    hint=error.hint,
                )
            )
        except DstackJupyterError as error:
            silent.append(Missing(backend=name, reason=error.message, hint=error.hint))
    found = everything.query(replace(wanted, backends=asked))
    hint = _near_gpus(wanted)
    filtered = [
        Missing(backend=name, reason=f"none of its offers passes `{by}`", hint=hint if by.startswith("gpu") else "")
        for name, by in found.removed_by.items()
    ]
    return found, filtered + silent


def _near_gpus(wanted: Requirements) -> str:
    """A hint where a GPU's name is not known but looks like one that is."""
    gpu = wanted.resources.gpu
    near = [match for name in (gpu.name if gpu is not None else None) or () for match in near_names(name)]
    return f"did you mean {', '.join(dict.fromkeys(near))}?" if near else ""
