"""Offers as JSON with the keys that dstack users know (reference ``configuration`` §7.1), ours beside them."""

from __future__ import annotations

from math import ceil, isnan
from typing import Any

from ..models.offers import COLUMNS, OWN
from .requirements import Requirements
from .rows import Rows

MIB = 1024


def _known(value: float) -> float | None:
    return None if isnan(value) else value


def _plain(value: Any, *, date: bool) -> Any:
    """A value of a column of ours: null for an unknown number and for an unknown day."""
    return _known(value) if isinstance(value, float) else value or None if date else value


def _mib(gigabytes: float) -> int | None:
    return None if isnan(gigabytes) else round(gigabytes * MIB)


def to_wire(rows: Rows, wanted: Requirements, total: int) -> dict[str, Any]:
    """``{total_offers, requirements, offers: […]}``. What is not known is null.

    The columns that are marked ``json`` are ours.
    """
    columns = rows.lists()
    names = list(columns)
    offers = [_offer(dict(zip(names, row, strict=True)), wanted) for row in zip(*columns.values(), strict=True)]
    return {"total_offers": total, "requirements": requirements(wanted), "offers": offers}


def _offer(row: dict[str, Any], wanted: Requirements) -> dict[str, Any]:
    gpu = {"name": row["gpu_name"], "memory_mib": _mib(row["gpu_memory_gb"]), "vendor": row["gpu_vendor"]}
    return {
        "backend": row["backend"],
        "region": row["region"],
        "price": _known(row["price"]),
        "backend_data": {},
        "availability": row["availability"],
        "availability_zones": [row["zone"]] if row["zone"] else None,
        "instance": {
            "name": row["instance_type"],
            "resources": {
                "cpus": _known(row["cpus"]),
                "memory_mib": _mib(row["memory_gb"]),
                "gpus": [dict(gpu) for _ in range(row["gpu_count"])],
                "spot": row["spot"],
                "disk": {"size_mib": _mib(row["disk_gb"])},
                "cpu_arch": row["cpu_arch"] or None,
            },
        },
        "instance_runtime": "runner" if row["origin"] == "local" else "shim",
        "blocks": _blocks(row, wanted),
        "total_blocks": row["total_blocks"],
        **{name: _plain(row[name], date=column.date) for name, column in COLUMNS.items() if column.json},
    }


def _blocks(row: dict[str, Any], wanted: Requirements) -> int:
    """How many of a host's equal blocks hold what was asked for."""
    total: int = row["total_blocks"]
    gpu = wanted.resources.gpu
    if row["origin"] not in OWN or total == 1 or gpu is None or not row["gpu_count"]:
        return 1
    needed: int = max(1, ceil((gpu.count.min or 0) / row["gpu_count"] * total - 1e-9))
    return needed


def requirements(wanted: Requirements) -> dict[str, Any]:
    """The requirements that the user stated; defaults are not among them."""
    asked: dict[str, Any] = {"resources": wanted.resources.model_dump(mode="json", exclude_unset=True)}
    for name in ("backends", "regions", "zones", "instance_types"):
        if values := getattr(wanted, name):
            asked[name] = list(values)
    return {**asked, "max_price": wanted.max_price, "spot": wanted.spot, "reservation": None}
