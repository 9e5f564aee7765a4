"""Offers as they cross the wire: one row of the table, and the backends that have none.

``OfferView`` is the one declaration of the table's columns: the numpy columns, the DataFrame, JSON, groups, the price files and
the shell's table are made from its fields. Prices are dollars per hour.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import model_validator

from .base import WireModel

Origin = Literal["catalog", "vendor", "fleet", "host", "local"]
"""What an offer is: a list price of the ``catalog``, which nothing is launched by; what a ``vendor`` rents; an idle rented
machine of a ``fleet``; a ``host`` of an SSH fleet; this machine, ``local``."""

OWN_MACHINES = ("local", "ssh")
"""Backends whose machines are there already: none is rented, and the defaults of cpu, memory and disk do not filter them."""

OWN: tuple[Origin, ...] = ("local", "host")
"""The origins of their offers."""

UNAVAILABLE = frozenset({"not_available", "no_quota", "no_balance", "busy"})
"""Availabilities of offers that cannot be had now: they are shown last, with the reason."""


NOT_AVAILABLE_YET = "not available yet"
"""The reason of a backend that this version knows by name only."""


def origin_of(backend: str) -> Origin:
    """The origin of what a backend offers itself. Rows and files of earlier versions hold none."""
    return "local" if backend == "local" else "host" if backend == "ssh" else "vendor"


def known(value: float | None) -> float | None:
    """The number, or None for what is not known, as None or as NaN."""
    return None if value is None or value != value else value  # noqa: PLR0124 - NaN


@dataclass(frozen=True, slots=True)
class Column:
    """What a column is beside its field: its type, its name and its default are the field's."""

    stored: Literal["", "machine", "place", "origin"] = ""
    """With which columns a price file stores it once for each combination; '' where none holds it."""
    group: str = ""
    """The key of ``--group-by`` that it belongs to."""
    shown: bool = True
    """Whether the DataFrame has it."""
    header: str = ""
    """Above it in a shell's table, where it stands for itself; others are shown together (``display.offers``)."""
    json: bool = False
    """Whether the JSON has it under its own name, beside dstack's keys."""
    date: bool = False
    """A text that is a day."""
    empty: Any = None
    """What a table holds where a backend gives no such column, if not the field's default."""


class OfferView(WireModel):
    """One row of the offers table, with the column names of the DataFrame. A number that is not known is None."""

    backend: Annotated[str, Column(stored="machine", group="backend", header="BACKEND")]
    region: Annotated[str, Column(stored="place", group="region")] = ""
    zone: Annotated[str, Column(stored="place")] = ""
    instance_type: Annotated[str, Column(stored="machine", header="INSTANCE TYPE")]
    cpus: Annotated[float | None, Column(stored="machine")]
    memory_gb: Annotated[float | None, Column(stored="machine")]
    disk_gb: Annotated[float | None, Column(stored="machine")] = None
    gpu_vendor: Annotated[str, Column(stored="machine", group="gpu")] = ""
    gpu_name: Annotated[str, Column(stored="machine", group="gpu")] = ""
    gpu_count: Annotated[int, Column(stored="machine", group="count")] = 0
    gpu_memory_gb: Annotated[float | None, Column(stored="machine", group="gpu")] = 0.0
    cpu_arch: Annotated[str, Column(stored="machine")] = ""
    spot: Annotated[bool, Column(stored="origin")] = False
    price: Annotated[float | None, Column()]
    """Dollars per hour; None where the vendor does not tell. It never counts as free, and never passes ``max_price``."""
    availability: Annotated[str, Column(stored="origin", empty="unknown")] = "available"
    reason: Annotated[str, Column(stored="origin", json=True)] = ""
    source: Annotated[str, Column(stored="origin", json=True)] = ""
    """Where its price is from, for people; programs look at ``origin``."""
    price_date: Annotated[str, Column(stored="origin", json=True, date=True, header="PRICE OF")] = ""
    blocks: Annotated[int, Column(stored="machine", shown=False)] = 1
    """Free blocks of a host that is shared by jobs."""
    total_blocks: Annotated[int, Column(stored="machine", shown=False)] = 1
    devices: Annotated[str, Column(stored="machine", shown=False)] = ""
    """The numbers of its GPUs on a machine of the user's own, ``0,1,4``; '' where they are the first ones."""
    origin: Annotated[Origin, Column(shown=False)] = "vendor"
    instance_id: Annotated[str, Column(shown=False)] = ""
    """The row of the machine that the offer is; '' for what is no machine of ours yet, and for this machine."""

    @model_validator(mode="before")
    @classmethod
    def _as_known(cls, values: Any) -> Any:
        """NaN is None here; what an earlier version stored has the origin of its backend."""
        if not isinstance(values, Mapping):
            return values
        unknown: dict[str, Any] = dict.fromkeys(name for name, value in values.items() if value != value)  # noqa: PLR0124
        if not values.get("origin"):
            unknown["origin"] = origin_of(str(values.get("backend")))
        return {**values, **unknown}

    @property
    def is_own(self) -> bool:
        """Whether its machine is the user's: nothing is rented, nothing of ours ends it."""
        return self.origin in OWN

    @property
    def is_shared(self) -> bool:
        """Whether it is a machine of a fleet, which runs book."""
        return self.origin in ("host", "fleet")

    @property
    def device_numbers(self) -> list[int]:
        """The numbers under which the machine's tools know the offer's GPUs."""
        return [int(number) for number in self.devices.split(",")] if self.devices else list(range(self.gpu_count))

    @property
    def key(self) -> tuple[str, str, str, str, bool]:
        """What tells an offer to rent from the others of one answer. A machine is told by its ``instance_id``."""
        return self.backend, self.region, self.zone, self.instance_type, self.spot


COLUMNS: dict[str, Column] = {
    name: next(each for each in field.metadata if isinstance(each, Column)) for name, field in OfferView.model_fields.items()
}
"""The columns of the table, in order."""

_TYPES = get_type_hints(OfferView)
NUMBERS: dict[str, type] = {
    name: float if float in get_args(_TYPES[name]) else _TYPES[name]
    for name in COLUMNS
    if _TYPES[name] in (int, bool) or float in get_args(_TYPES[name])
}
"""The columns that are no text, and of which type they are; a float may be unknown."""
TEXT = tuple(name for name in COLUMNS if name not in NUMBERS)
NEEDED = tuple(name for name, field in OfferView.model_fields.items() if field.is_required())
"""The columns that every backend gives."""


def _empty(name: str) -> Any:
    default = OfferView.model_fields[name].get_default()
    if COLUMNS[name].empty is not None:
        return COLUMNS[name].empty
    if NUMBERS.get(name) is float:
        return default if isinstance(default, float) else float("nan")
    return default if isinstance(default, str | int) else ""


EMPTY: dict[str, Any] = {name: _empty(name) for name in COLUMNS}
"""What a table holds for a column that a backend does not give."""


def grouped(by: str) -> tuple[str, ...]:
    """The columns of a key of ``--group-by``."""
    return tuple(name for name, column in COLUMNS.items() if column.group == by)


def tabulated(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns. What a row lacks is empty in it; what no row has is left out, for the table knows better."""
    given: Iterable[str] = COLUMNS if not rows else (name for name in COLUMNS if any(name in row for row in rows))
    return {name: [row.get(name, EMPTY[name]) for row in rows] for name in given}


class Missing(WireModel):
    """A backend that has no row, and why."""

    backend: str
    reason: str
    hint: str = ""
