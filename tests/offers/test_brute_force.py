"""Queries give exactly what a loop over plain dicts gives that knows nothing of columns."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from dstack_jupyter.models.gpus import capability
from dstack_jupyter.models.resources import Resources
from dstack_jupyter.offers.requirements import Requirements
from dstack_jupyter.offers.table import OfferTable

GPUS = [("nvidia", "A100", 80.0), ("nvidia", "A100", 40.0), ("nvidia", "H100", 80.0), ("nvidia", "T4", 16.0)]
GPUS += [("amd", "MI300X", 192.0), ("nvidia", "NewOne", math.nan)]


def some_row(rng: random.Random, number: int) -> dict[str, Any]:
    count = rng.choice([0, 0, 0, 1, 2, 4, 8])
    vendor, name, memory = rng.choice(GPUS) if count else ("", "", 0.0)
    return {
        "backend": rng.choice(["aws", "gcp", "local", "ssh"]),
        "region": rng.choice(["eu", "us", "asia"]),
        "zone": rng.choice(["", "a", "b"]),
        "instance_type": f"type-{number % 40}",
        "cpus": rng.choice([1.0, 2.0, 4.0, 8.0, 64.0, math.nan]),
        "memory_gb": rng.choice([1.0, 4.0, 16.0, 256.0, math.nan]),
        "disk_gb": rng.choice([10.0, 100.0, 500.0, math.nan]),
        "gpu_vendor": vendor,
        "gpu_name": name,
        "gpu_count": count,
        "gpu_memory_gb": memory,
        "cpu_arch": rng.choice(["x86", "x86", "arm"]),
        "spot": rng.random() < 0.4,
        "price": rng.choice([math.nan, round(rng.random() * 9, 2), round(rng.random() * 9, 2)]),
        "availability": rng.choice(["available", "unknown", "idle", "busy", "no_quota"]),
        "reason": rng.choice(["", "because"]),
        "source": "test",
        "price_date": rng.choice(["", "2026-01-02"]),
    }


def some_range(rng: random.Random, values: list[int]) -> dict[str, int]:
    low, high = sorted((rng.choice(values), rng.choice(values)))
    return rng.choice([{"min": low}, {"max": high}, {"min": low, "max": high}])


def some_wish(rng: random.Random) -> dict[str, Any]:
    wish: dict[str, Any] = {"resources": {}}
    resources = wish["resources"]
    if rng.random() < 0.7:
        gpu: dict[str, Any] = {}
        if rng.random() < 0.4:
            gpu["name"] = rng.sample(["a100", "H100", "T4", "NewOne", "none"], 2)
        if rng.random() < 0.3:
            gpu["vendor"] = rng.choice(["nvidia", "amd"])
        if rng.random() < 0.4:
            gpu["memory"] = some_range(rng, [16, 40, 80, 192])
        if rng.random() < 0.6:
            gpu["count"] = some_range(rng, [0, 1, 2, 4, 8])
        if rng.random() < 0.2:
            gpu["total_memory"] = some_range(rng, [16, 160, 640])
        if rng.random() < 0.2:
            gpu["compute_capability"] = rng.choice(["7.5", "8.0", "9.0"])
        resources["gpu"] = gpu
    if rng.random() < 0.4:
        resources["cpu"] = {"count": some_range(rng, [1, 2, 8, 64])}
        if rng.random() < 0.3:
            resources["cpu"]["arch"] = rng.choice(["x86", "arm"])
    if rng.random() < 0.4:
        resources["memory"] = some_range(rng, [1, 8, 16, 256])
    if rng.random() < 0.2:
        resources["disk"] = {"size": some_range(rng, [10, 100, 500])}
    for key, words in (("backends", ["aws", "local"]), ("regions", ["eu", "asia", "mars"]), ("zones", ["a"])):
        if rng.random() < 0.2:
            wish[key] = tuple(words)
    if rng.random() < 0.3:
        wish["spot"] = rng.random() < 0.5
    if rng.random() < 0.3:
        wish["max_price"] = 5.0
    wish["defaults_filter"] = rng.random() < 0.5
    return wish


def outside(value: float, wanted: Any) -> bool:
    """What is not known is outside of nothing."""
    return (wanted.min is not None and value < wanted.min) or (wanted.max is not None and value > wanted.max)


def fits(row: dict[str, Any], wanted: Requirements) -> bool:
    own, resources, gpu = row["backend"] in ("local", "ssh"), wanted.resources, wanted.resources.gpu
    for values, column in ((wanted.backends, "backend"), (wanted.regions, "region"), (wanted.zones, "zone")):
        if values and row[column] not in values:
            return False
    if wanted.spot is not None and row["spot"] != wanted.spot:
        return False
    if wanted.max_price is not None and not row["price"] <= wanted.max_price:
        return False
    for key, value, size in (
        ("cpu", row["cpus"], resources.cpu.count),
        ("memory", row["memory_gb"], resources.memory),
        ("disk", row["disk_gb"], resources.disk.size),
    ):
        asked = key in resources.model_fields_set
        if (asked or (wanted.defaults_filter and not own)) and outside(value, size):
            return False
    if resources.cpu.arch and row["cpu_arch"] != resources.cpu.arch:
        return False
    if gpu is None:
        return True
    least = gpu.count.min or 0
    if row["gpu_count"] < least or (not own and outside(row["gpu_count"], gpu.count)):
        return False
    if row["gpu_count"] == 0:
        return least == 0
    if gpu.vendor and row["gpu_vendor"] != gpu.vendor:
        return False
    if gpu.name and row["gpu_name"].lower() not in [name.lower() for name in gpu.name]:
        return False
    if gpu.memory is not None and outside(row["gpu_memory_gb"], gpu.memory):
        return False
    if gpu.total_memory is not None and outside(row["gpu_memory_gb"] * row["gpu_count"], gpu.total_memory):
        return False
    return gpu.compute_capability is None or (capability(row["gpu_name"]) or (0, 0)) >= gpu.compute_capability


def place(row: dict[str, Any]) -> tuple[bool, bool, float]:
    unknown = math.isnan(row["price"])
    return row["availability"] in ("busy", "no_quota"), unknown, 0.0 if unknown else row["price"]


@pytest.mark.parametrize("seed", range(8))
def test_a_query_is_what_a_loop_finds(seed: int) -> None:
    rng = random.Random(seed)
    rows = [some_row(rng, number) for number in range(600)]
    table = OfferTable.of({name: [row[name] for row in rows] for name in rows[0]})
    some = 0
    for _ in range(60):
        wish = some_wish(rng)
        wanted = Requirements(Resources.model_validate(wish.pop("resources")), **wish)
        expected = sorted((row for row in rows if fits(row, wanted)), key=place)
        found = table.query(wanted)
        columns = found.rows().lists()
        got = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        assert [repr({key: row[key] for key in sorted(rows[0])}) for row in got] == [
            repr({key: row[key] for key in sorted(row)}) for row in expected
        ], wanted
        first = table.query(wanted, 7).rows().lists()
        assert repr(first["instance_type"]) == repr(columns["instance_type"][:7])
        left, blamed = {row["backend"] for row in expected}, found.removed_by()
        assert set(blamed) == {row["backend"] for row in rows} - left
        some += bool(expected)
    assert some > 20, "the queries should not all be empty"
