"""gpuhunt on the same rows: run by ``benchmarks/offers.py`` with an interpreter that has nothing but gpuhunt.

usage: offers_gpuhunt.py ROWS.csv QUERIES.json; prints JSON. Only its public parts are used: a catalogue is filled by hand.
"""

import csv
import hashlib
import importlib.metadata
import json
import pathlib
import statistics
import sys
import time
import types

import gpuhunt

NAMES = {
    "lambda": "lambdalabs",
    "verda": "verda",
    "aws": "aws",
    "azure": "azure",
    "gcp": "gcp",
    "nebius": "nebius",
    "runpod": "runpod",
}
OTHERS = "oci"
"""Providers that gpuhunt asks live: their rows stand under a name that it reads from catalogues."""


def item(row):
    gpus = int(row["gpu_count"])
    return gpuhunt.CatalogItem(
        provider=NAMES.get(row["backend"], OTHERS),
        instance_name=row["instance"],
        location=row["region"],
        price=float(row["price"]),
        cpu=int(row["cpu"]),
        memory=float(row["memory"]),
        gpu_count=gpus,
        gpu_name=row["gpu_name"] or None,
        gpu_memory=float(row["gpu_memory"]) if gpus else None,
        gpu_vendor=gpuhunt.AcceleratorVendor(row["gpu_vendor"]) if gpus else None,
        spot=row["spot"] == "True",
        disk_size=None,
        cpu_arch=gpuhunt.CPUArchitecture(row["arch"]),
    )


def mark(offers):
    return hashlib.sha256(json.dumps(sorted(offers)).encode()).hexdigest()


def main():
    catalog = gpuhunt.Catalog(balance_resources=False, auto_reload=False)
    items = {}
    with open(sys.argv[1], newline="") as file:
        for row in csv.DictReader(file):
            one = item(row)
            items.setdefault(one.provider, []).append(one)
    catalog.catalog = {name: types.SimpleNamespace(items=found) for name, found in items.items()}
    catalog.catalog.setdefault("cloudrift", types.SimpleNamespace(items=[]))
    catalog.loaded_at = time.monotonic()
    asked = json.loads(pathlib.Path(sys.argv[2]).read_text())
    times, marks = {}, []
    for name, query in asked["six"].items():
        catalog.query(**query)
        took = []
        for _ in range(5):
            began = time.perf_counter()
            catalog.query(**query)
            took.append(time.perf_counter() - began)
        times[name] = statistics.median(took) * 1000
    for query in asked["random"]:
        marks.append(mark([(i.instance_name, i.location, i.price, i.spot) for i in catalog.query(**query)]))
    print(json.dumps({"version": importlib.metadata.version("gpuhunt"), "times": times, "marks": marks}))


main()
