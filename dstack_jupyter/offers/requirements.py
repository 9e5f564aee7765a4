"""The requirements of a query, and its filters: each is one mask over columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..models.gpus import capability
from ..models.resources import GPU, CountRange, MemoryRange, Resources
from .rows import Array, Text

if TYPE_CHECKING:
    from ..models.configurations import AnyRun
    from ..models.fleets import FleetConfiguration


SPOT = {"spot": True, "on-demand": False, "auto": None, None: False}
"""What a ``spot_policy`` asks of an offer; None: nothing."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What a query asks for. Resources that the user gave are in ``resources.model_fields_set``; others are defaults."""

    resources: Resources
    backends: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    fleets: tuple[str, ...] = ()
    """Fleets that the run may use; the region of a host is its fleet."""
    instance_types: tuple[str, ...] = ()
    spot: bool | None = None
    max_price: float | None = None
    image_vendor: str = ""
    """The vendor whose GPUs the image can use, if the user named neither image nor GPU: the default image holds CUDA."""
    defaults_filter: bool = True
    """False for `%dstack offers`: there the defaults of resources filter nothing."""

    @classmethod
    def of_fleet(cls, fleet: FleetConfiguration) -> Requirements:
        return cls(
            resources=fleet.resources or Resources(),
            backends=tuple(fleet.backends or ()),
            regions=tuple(fleet.regions or ()),
            zones=tuple(fleet.availability_zones or ()),
            instance_types=tuple(fleet.instance_types or ()),
            spot=SPOT[fleet.spot_policy],
            max_price=fleet.max_price,
        )

    @classmethod
    def of_task(cls, task: AnyRun) -> Requirements:
        gpu = task.resources.gpu
        open_to_all = gpu is None or gpu.vendor or gpu.name or task.image or task.docker
        return cls(
            resources=task.resources,
            image_vendor="" if open_to_all else "nvidia",
            backends=tuple(task.backends or ()),
            regions=tuple(task.regions or ()),
            zones=tuple(task.availability_zones or ()),
            fleets=tuple(each if isinstance(each, str) else str(each.get("name", "")) for each in task.fleets or ()),
            instance_types=tuple(task.instance_types or ()),
            spot=SPOT[task.spot_policy],
            max_price=task.max_price,
        )


class Part(Protocol):
    """The rows that a filter looks at: all of a table, a stretch of it, or some."""

    def text(self, name: str) -> Text: ...

    def number(self, name: str) -> Array: ...

    def own(self) -> Array | None:
        """Which rows are machines of the user's own; None if none is."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One wish: ``name`` explains an empty result, ``fits`` tells which rows fit (bool, one a row)."""

    name: str
    fits: Callable[[Part], Array]
    gpus_only: bool = False
    """True if no row without a GPU fits."""


def filters(wanted: Requirements) -> list[Filter]:
    """All wishes of a query, in the order in which they are blamed: where, what, and for how much at last."""
    wishes: list[Filter] = []
    for name, column, values in (
        ("backends", "backend", wanted.backends),
        ("regions", "region", wanted.regions),
        ("availability_zones", "zone", wanted.zones),
        ("instance_types", "instance_type", wanted.instance_types),
    ):
        if values:
            wishes.append(Filter(name, _one_of(column, values)))
    if names := tuple(name.rpartition("/")[2] for name in wanted.fleets):
        wishes.append(Filter("fleets", lambda part: ~_one_of("backend", ("ssh",))(part) | _one_of("region", names)(part)))
    if wanted.resources.gpu is not None:
        wishes += _gpu_filters(wanted.resources.gpu)
    if vendor := wanted.image_vendor:
        wishes.append(Filter(f"gpu vendor: the default image is made for {vendor}", lambda part: _usable(part, vendor)))
    wishes += _resource_filters(wanted)
    # The user's own machines are neither spot nor on-demand; asking for spot alone leaves them out.
    if (spot := wanted.spot) is not None:
        wishes.append(Filter("spot_policy", lambda part: part.number("spot") == spot))
    if (highest := wanted.max_price) is not None:
        # An unknown price may be any: it does not pass.
        wishes.append(Filter("max_price", lambda part: part.number("price") <= highest))
    return wishes


def _usable(part: Part, vendor: str) -> Array:
    """Rows whose GPUs suit the image. The user's own machines pass: they may run without an image, and cost nothing."""
    own, fits = part.own(), _one_of("gpu_vendor", (vendor, ""))(part)
    return fits if own is None else fits | own


def _one_of(column: str, names: tuple[str, ...], *, lower: bool = False) -> Callable[[Part], Array]:
    def fits(part: Part) -> Array:
        text = part.text(column)
        return text.flags(names, lower=lower)[text.codes]

    return fits


def _within(values: Array, wanted: MemoryRange | CountRange) -> Array:
    """NaN is not known, and passes."""
    low, high = wanted.min, wanted.max
    if high is None:
        return ~(values < low)
    if low is None:
        return ~(values > high)
    return ~((values < low) | (values > high))


def _resource_filters(wanted: Requirements) -> list[Filter]:
    """cpu, memory and disk. A default filters rented machines only, or nothing."""
    resources, wishes = wanted.resources, []
    for name, column, size in (
        ("cpu", "cpus", resources.cpu.count),
        ("memory", "memory_gb", resources.memory),
        ("disk", "disk_gb", resources.disk.size),
    ):
        asked = name in resources.model_fields_set
        if asked or wanted.defaults_filter:

            def fits(part: Part, column: str = column, size: CountRange | MemoryRange = size, asked: bool = asked) -> Array:
                own, mask = part.own(), _within(part.number(column), size)
                return mask if asked or own is None else mask | own

            wishes.append(Filter(name, fits))
    if arch := resources.cpu.arch:
        wishes.append(Filter("cpu arch", _one_of("cpu_arch", (arch,))))
    return wishes


def _gpu_filters(gpu: GPU) -> list[Filter]:
    low = gpu.count.min or 0
    wishes: list[Filter] = []

    def add(name: str, fits: Callable[[Part], Array]) -> None:
        # Where a machine without a GPU will do too, the wishes for GPUs do not apply to it.
        if low == 0:
            wishes.append(Filter(name, lambda part: fits(part) | (part.number("gpu_count") == 0)))
        else:
            wishes.append(Filter(name, lambda part: fits(part) & (part.number("gpu_count") > 0), gpus_only=True))

    if vendor := gpu.vendor:
        add("gpu vendor", _one_of("gpu_vendor", (vendor,)))
    if names := tuple(gpu.name or ()):
        add("gpu name", _one_of("gpu_name", names, lower=True))
    if (memory := gpu.memory) is not None:
        add("gpu memory", lambda part: _within(part.number("gpu_memory_gb"), memory))
    if (total := gpu.total_memory) is not None:
        add("gpu total_memory", lambda part: _within(part.number("gpu_memory_gb") * part.number("gpu_count"), total))
    if (least := gpu.compute_capability) is not None:

        def capable(part: Part) -> Array:
            text = part.text("gpu_name")
            flags = np.array([(capability(word) or (0, 0)) >= least for word in text.words], np.bool_)
            return flags[text.codes]

        add("gpu compute_capability", capable)

    def count(part: Part) -> Array:
        value, own = part.number("gpu_count"), part.own()
        mask = _within(value, gpu.count)
        # A machine of the user's own is shared: it fits if it has at least that many, and the job sees only its share.
        return mask if own is None else np.where(own, value >= low, mask)

    return [*wishes, Filter("gpu count", count, gpus_only=low > 0)]
