"""Offers as one table of columns (D8): backends yield columns, a query keeps row numbers, users get a DataFrame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..models.configurations import AnyRun
from ..models.resources import GPU, CountRange, MemoryRange, Resources
from ..models.runs import OfferView

TEXT = (
    "backend",
    "region",
    "zone",
    "instance_type",
    "gpu_vendor",
    "gpu_name",
    "cpu_arch",
    "availability",
    "reason",
    "source",
)
COLUMNS = (
    "backend", "region", "zone", "instance_type", "cpus", "memory_gb", "disk_gb", "gpu_vendor", "gpu_name", "gpu_count",
    "gpu_memory_gb", "cpu_arch", "spot", "price", "price_per_gpu", "price_per_gpu_gb", "availability", "reason", "source",
    "price_date",
)  # fmt: skip
"""The columns of the DataFrame, in order (design §4)."""

DERIVED = frozenset({"price_per_gpu", "price_per_gpu_gb"})
"""Columns that are made of others, in the DataFrame only."""

OWN_MACHINES = frozenset({"local", "ssh"})
"""Backends whose machines are the user's: the defaults of cpu, memory and disk do not filter them."""

UNAVAILABLE = frozenset({"not_available", "no_quota", "no_balance", "busy"})
"""Offers that cannot be had now: they are shown last, with the reason."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a query asks for. ``asked`` are the resources that the user gave; others of ``resources`` are defaults."""

    resources: Resources
    backends: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    fleets: tuple[str, ...] = ()
    """Fleets that the run may use; the region of a host is its fleet."""
    instance_types: tuple[str, ...] = ()
    spot: bool | None = None
    max_price: float | None = None
    defaults_filter: bool = True
    """False for `%dstack offers`: what the user did not ask for is not asked for."""

    @classmethod
    def of_task(cls, task: AnyRun) -> Requirements:
        spot = {"spot": True, "on-demand": False, "auto": None, None: False}[task.spot_policy]
        return cls(
            resources=task.resources,
            backends=tuple(task.backends or ()),
            regions=tuple(task.regions or ()),
            fleets=tuple(each if isinstance(each, str) else str(each.get("name", "")) for each in task.fleets or ()),
            instance_types=tuple(task.instance_types or ()),
            spot=spot,
            max_price=task.max_price,
        )


Columns = dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Filter:
    """One wish: the words that an empty result is explained by, the columns it reads, the test of their values."""

    name: str
    columns: tuple[str, ...]
    fits: Callable[..., bool]

    def keep(self, columns: Columns, rows: list[int]) -> list[int]:
        if len(self.columns) == 1:
            values, fits = columns[self.columns[0]], self.fits
            return [row for row in rows if fits(values[row])]
        wanted = [columns[name] for name in self.columns]
        return [row for row in rows if self.fits(*(values[row] for values in wanted))]


def _within(value: float, wanted: MemoryRange | CountRange) -> bool:
    return (wanted.min is None or value >= wanted.min) and (wanted.max is None or value <= wanted.max)


def _filters(wanted: Requirements) -> list[Filter]:
    found: list[Filter] = []
    for name, column, values in (
        ("backends", "backend", wanted.backends),
        ("regions", "region", wanted.regions),
        ("instance_types", "instance_type", wanted.instance_types),
    ):
        if values:
            found.append(Filter(name, (column,), frozenset(values).__contains__))
    if names := frozenset(name.rpartition("/")[2] for name in wanted.fleets):
        found.append(Filter("fleets", ("backend", "region"), lambda backend, region: backend != "ssh" or region in names))
    # The user's own machines are neither spot nor on-demand; asking for spot alone leaves them out.
    if (spot := wanted.spot) is not None:
        found.append(Filter("spot_policy", ("spot",), lambda value: value == spot))
    if (highest := wanted.max_price) is not None:
        found.append(Filter("max_price", ("price",), lambda value: value <= highest))
    return found + _resource_filters(wanted) + ([] if wanted.resources.gpu is None else _gpu_filters(wanted.resources.gpu))


def _resource_filters(wanted: Requirements) -> list[Filter]:
    """cpu, memory and disk. What is a default filters rented machines only, or nothing."""
    resources, found = wanted.resources, []
    for name, column, size in (
        ("cpu", "cpus", resources.cpu.count),
        ("memory", "memory_gb", resources.memory),
        ("disk", "disk_gb", resources.disk.size),
    ):
        asked = name in resources.model_fields_set
        if asked or wanted.defaults_filter:
            spared = frozenset() if asked else OWN_MACHINES

            def fits(backend: str, value: float, size: CountRange | MemoryRange = size, spared: frozenset[str] = spared) -> bool:
                return backend in spared or _within(value, size)

            found.append(Filter(name, ("backend", column), fits))
    if arch := resources.cpu.arch:
        found.append(Filter("cpu arch", ("cpu_arch",), lambda value: value == arch))
    return found


def _gpu_filters(gpu: GPU) -> list[Filter]:
    low = gpu.count.min or 0

    def count(backend: str, value: int) -> bool:
        # A machine of the user's own is shared: it fits if it has at least that many, and the job sees only its share.
        return value >= low if backend in OWN_MACHINES else _within(value, gpu.count)

    found: list[Filter] = []

    def add(name: str, column: str, fits: Callable[[Any], bool]) -> None:
        # Where no GPU will do too, what is asked of a GPU is not asked of a machine without one.
        found.append(Filter(name, (column, "gpu_count"), lambda value, gpus: (low == 0 and gpus == 0) or fits(value)))

    if vendor := gpu.vendor:
        add("gpu vendor", "gpu_vendor", lambda value: value == vendor)
    if names := frozenset(name.lower() for name in gpu.name or ()):
        add("gpu name", "gpu_name", lambda value: value.lower() in names)
    if (memory := gpu.memory) is not None:
        add("gpu memory", "gpu_memory_gb", lambda value: _within(value, memory))
    if (total := gpu.total_memory) is not None:

        def fits(each: float, gpus: int) -> bool:
            return (low == 0 and gpus == 0) or _within(each * gpus, total)

        found.append(Filter("gpu total_memory", ("gpu_memory_gb", "gpu_count"), fits))
    return [*found, Filter("gpu count", ("backend", "gpu_count"), count)]


@dataclass(slots=True)
class OfferTable:
    """Columns of equal length, named as in ``COLUMNS`` less the derived prices.

    ``removed_by``: for each backend that a query left without a row, the filter that took the last one.
    """

    columns: Columns = field(default_factory=dict)
    removed_by: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns.get("backend", ()))

    def extend(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Add a backend's rows; a column it does not know stays empty in them."""
        before, more = len(self), len(columns["backend"])
        for name in (each for each in COLUMNS if each not in DERIVED):
            values = self.columns.setdefault(name, [""] * before)
            values.extend(columns.get(name, [""] * more))

    def query(self, wanted: Requirements) -> OfferTable:
        """The rows that fit, cheapest first; what cannot be had now comes last."""
        rows = list(range(len(self)))
        removed_by: dict[str, str] = {}
        if rows:
            backends = self.columns["backend"]
            present = set(backends)
            for each in _filters(wanted):
                rows = each.keep(self.columns, rows)
                left = {backends[row] for row in rows}
                removed_by.update(dict.fromkeys(present - left, each.name))
                present = left
            prices, availability = self.columns["price"], self.columns["availability"]
            rows.sort(key=lambda row: (availability[row] in UNAVAILABLE, prices[row]))
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return OfferTable(columns, removed_by)

    def why_empty(self) -> str:
        """One sentence for a query without a row; '' if there is one."""
        if len(self):
            return ""
        if not self.removed_by:
            return "no backend has an offer"
        blame = ", ".join(dict.fromkeys(f"`{name}`" for name in self.removed_by.values()))
        return f"no offer fits: {blame} removed the last {'one' if len(self.removed_by) == 1 else 'ones'}"

    def views(self) -> list[OfferView]:
        names = [name for name in self.columns if name in OfferView.model_fields]
        rows = zip(*(self.columns[name] for name in names), strict=True)
        return [OfferView(**dict(zip(names, row, strict=True))) for row in rows]
