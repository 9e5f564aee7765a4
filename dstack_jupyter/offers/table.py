"""Offers as one table of columns (D8): backends yield columns, a query keeps row numbers, users get a DataFrame."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..models.configurations import TaskConfiguration
from ..models.resources import CountRange, MemoryRange, Resources
from ..models.runs import OfferView

TEXT = ("backend", "region", "zone", "instance_type", "gpu_vendor", "gpu_name", "cpu_arch", "availability", "reason", "source")
COLUMNS = (
    "backend", "region", "zone", "instance_type", "cpus", "memory_gb", "disk_gb", "gpu_vendor", "gpu_name", "gpu_count",
    "gpu_memory_gb", "cpu_arch", "spot", "price", "price_per_gpu", "price_per_gpu_gb", "availability", "reason", "source",
    "price_date",
)  # fmt: skip
"""The columns of the DataFrame, in order (design §4)."""

OWN_MACHINES = frozenset({"local", "ssh"})
"""Backends whose machines are the user's: the defaults of cpu, memory and disk do not filter them."""

KNOWN_GPUS = (
    "A10 A10G A16 A40 A100 A30 A4000 A5000 A6000 B200 B300 GH200 H100 H200 H100NVL L4 L40 L40S P100 P4 RTX2000Ada RTX3070 "
    "RTX3080 RTX3090 RTX4000Ada RTX4080 RTX4090 RTX5000Ada RTX5090 RTX6000Ada RTXPRO6000 T4 V100 MI250X MI300X MI325X MI355X "
    "v5litepod v5p v6e"
).split()


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a query asks for. ``asked`` are the resources that the user gave; others of ``resources`` are defaults."""

    resources: Resources
    backends: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    instance_types: tuple[str, ...] = ()
    spot: bool | None = None
    max_price: float | None = None
    defaults_filter: bool = True
    """False for `%dstack offers`: what the user did not ask for is not asked for."""

    @classmethod
    def of_task(cls, task: TaskConfiguration) -> Requirements:
        spot = {"spot": True, "on-demand": False, "auto": None, None: False}[task.spot_policy]
        return cls(
            resources=task.resources,
            backends=tuple(task.backends or ()),
            regions=tuple(task.regions or ()),
            instance_types=tuple(task.instance_types or ()),
            spot=spot,
            max_price=task.max_price,
        )


Row = dict[str, Any]
Test = Callable[[Row], bool]


def _within(value: float, wanted: MemoryRange | CountRange) -> bool:
    return (wanted.min is None or value >= wanted.min) and (wanted.max is None or value <= wanted.max)


def _tests(wanted: Requirements) -> list[tuple[str, Test]]:
    """The filters of a query with the words that an empty result is explained by."""
    resources, gpu = wanted.resources, wanted.resources.gpu
    asked = resources.model_fields_set

    def resource(key: str, test: Test) -> tuple[str, Test]:
        given = key in asked
        return key, lambda row: (
            test(row) if given else not wanted.defaults_filter or row["backend"] in OWN_MACHINES or test(row)
        )

    found: list[tuple[str, Test]] = []
    if wanted.backends:
        found.append(("backends", lambda row: row["backend"] in wanted.backends))
    if wanted.regions:
        found.append(("regions", lambda row: row["region"] in wanted.regions))
    if wanted.instance_types:
        found.append(("instance_types", lambda row: row["instance_type"] in wanted.instance_types))
    # The user's own machines are neither spot nor on-demand; asking for spot alone leaves them out.
    if wanted.spot is not None:
        found.append(("spot", lambda row: row["spot"] == wanted.spot))
    if wanted.max_price is not None:
        found.append(("max_price", lambda row: row["price"] <= wanted.max_price))
    found.append(resource("cpu", lambda row: _within(row["cpus"], resources.cpu.count)))
    if resources.cpu.arch:
        found.append(("cpu arch", lambda row: row["cpu_arch"] == resources.cpu.arch))
    found.append(resource("memory", lambda row: _within(row["memory_gb"], resources.memory)))
    found.append(resource("disk", lambda row: _within(row["disk_gb"], resources.disk.size)))
    if gpu is not None:
        names = {name.lower() for name in gpu.name or ()}
        vendor, memory, total = gpu.vendor, gpu.memory, gpu.total_memory
        if vendor:
            found.append(("gpu vendor", lambda row: row["gpu_vendor"] == vendor))
        if names:
            found.append(("gpu name", lambda row: row["gpu_name"].lower() in names))
        if memory is not None:
            found.append(("gpu memory", lambda row: _within(row["gpu_memory_gb"], memory)))
        # A machine of the user's own is shared: it fits if it has at least that many GPUs.
        low = gpu.count.min or 0
        found.append(
            (
                "gpu count",
                lambda row: row["gpu_count"] >= low if row["backend"] in OWN_MACHINES else _within(row["gpu_count"], gpu.count),
            )
        )
        if total is not None:
            found.append(("gpu total memory", lambda row: _within(row["gpu_memory_gb"] * row["gpu_count"], total)))
    return found


@dataclass(slots=True)
class OfferTable:
    """Columns of equal length, named as in ``COLUMNS`` less the derived prices."""

    columns: dict[str, list[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.columns.get("backend", ()))

    def row(self, number: int) -> Row:
        return {name: values[number] for name, values in self.columns.items()}

    def extend(self, columns: dict[str, list[Any]]) -> None:
        """Add a backend's rows; a column it does not know stays empty in them."""
        before, more = len(self), len(columns["backend"])
        for name in COLUMNS:
            values = self.columns.setdefault(name, [""] * before)
            values.extend(columns.get(name, [""] * more))

    def query(self, wanted: Requirements) -> tuple[OfferTable, str]:
        """(rows that fit, cheapest first; the name of the filter that removed the last row, '' if some are left)."""
        kept = list(range(len(self)))
        blame = ""
        for name, test in _tests(wanted):
            left = [number for number in kept if test(self.row(number))]
            if kept and not left:
                blame = name
            kept = left
        prices = self.columns.get("price", [])
        kept.sort(key=lambda number: (prices[number], number))
        return OfferTable({name: [values[number] for number in kept] for name, values in self.columns.items()}), blame

    def views(self) -> list[OfferView]:
        fields = OfferView.model_fields
        return [
            OfferView(**{name: value for name, value in self.row(number).items() if name in fields})
            for number in range(len(self))
        ]


def near_gpus(name: str) -> list[str]:
    """Known GPU names that look like this one; none for a known name."""
    known = {gpu.lower(): gpu for gpu in KNOWN_GPUS}
    if name.lower() in known:
        return []
    return [known[match] for match in difflib.get_close_matches(name.lower(), known, 3, cutoff=0.5)]
