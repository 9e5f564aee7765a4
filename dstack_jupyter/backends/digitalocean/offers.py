"""DigitalOcean's sizes as offers: a row for each region that has the size now, and one for a GPU size that none has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...models.errors import BackendError
from ...models.gpus import KNOWN, short_name, sold_memory
from ...models.offers import tabulated

GIB = {"gib": 1.0, "gb": 1.0, "mib": 1 / 1024, "tib": 1024.0}


def gpu(size: Mapping[str, Any]) -> tuple[str, str, int, float]:
    """(vendor, name, count, GB of each) of a size; ('', '', 0, 0.0) without GPUs.

    ``vram`` is of one GPU in some sizes and of all GPUs in others: the amount that fits a GPU of that name is taken.
    """
    info = size.get("gpu_info")
    if not info:
        return "", "", 0, 0.0
    vendor, _, model = str(info["model"]).partition("_")
    name = short_name(f"{vendor} {model.replace('_', ' ')}")
    name = name if name in KNOWN else name.upper()
    count = int(info["count"])
    vram = info.get("vram") or {}
    amount = float(vram.get("amount", 0)) * GIB.get(str(vram.get("unit", "gib")).lower(), 1.0)
    for each in (amount, amount / max(count, 1)):
        if (sold := sold_memory(name, each)) in KNOWN.get(name, ()):
            return vendor, name, count, sold
    return vendor, name, count, amount


def columns(backend: str, sizes: Iterable[Mapping[str, Any]], open_regions: frozenset[str]) -> dict[str, list[Any]]:
    """The offers of these sizes. ``open_regions`` are those in which new machines can be made. Raises BackendError."""
    rows: list[dict[str, Any]] = []
    for size in sizes:
        try:
            vendor, name, count, memory = gpu(size)
            common = {
                "backend": backend,
                "zone": "",
                "instance_type": str(size["slug"]),
                "cpus": float(size["vcpus"]),
                "memory_gb": float(size["memory"]) / 1024,
                "disk_gb": float(size["disk"]),
                "gpu_vendor": vendor,
                "gpu_name": name,
                "gpu_count": count,
                "gpu_memory_gb": memory,
                "cpu_arch": "x86",
                "spot": False,
                "price": float(size["price_hourly"]),
                "source": "live",
            }
            regions = [str(region) for region in size["regions"]] if size["available"] else []
        except (KeyError, TypeError, ValueError) as error:
            raise BackendError(f"{backend}: a size that makes no sense: {type(error).__name__} {error}") from None
        if not regions and count:
            rows.append({**common, "region": "", "availability": "not_available", "reason": "no region has it now"})
        for region in regions:
            there = region in open_regions
            reason = "" if there else "the region takes no new machines"
            rows.append({**common, "region": region, "availability": "available" if there else "not_available", "reason": reason})
    return tabulated(rows)
