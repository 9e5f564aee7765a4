"""The offers of all backends in one table, and for each backend without a row the reason: silence is a defect (D8)."""

from __future__ import annotations

from ..models.errors import BackendNotAvailable, DstackJupyterError
from ..models.runs import Missing
from ..offers.table import OfferTable, Requirements, near_gpus
from . import registry


def collect(wanted: Requirements) -> tuple[OfferTable, list[Missing]]:
    """(offers that fit, cheapest first; backends without a row). Blocks. Raises NotFound for an unknown backend's name."""
    names = [registry.entry(name)[0] for name in wanted.backends] or list(registry.entries)
    everything = OfferTable()
    missing: list[Missing] = []
    asked: list[str] = []
    for name in names:
        try:
            everything.extend(registry.load(name).offers())
            asked.append(name)
        except BackendNotAvailable as error:
            missing.append(Missing(backend=name, reason="not available yet", hint=error.hint))
        except DstackJupyterError as error:
            missing.append(Missing(backend=name, reason=error.message, hint=error.hint))
    found, blame = everything.query(wanted)
    present = set(found.columns.get("backend", ()))
    gpus = [near for name in (wanted.resources.gpu.name if wanted.resources.gpu else None) or () for near in near_gpus(name)]
    hint = f"did you mean {', '.join(gpus)}?" if gpus else ""
    missing[:0] = [
        Missing(backend=name, reason=f"no offer passes the filter '{blame or 'combination'}'", hint=hint)
        for name in asked
        if name not in present
    ]
    return found, missing
