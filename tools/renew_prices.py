"""Write the shipped list prices (``dstack_jupyter/offers/prices/*.npz``) from open price lists.

usage: renew_prices.py PRICES AWS_TYPES [--out FOLDER]

PRICES is a folder with ``aws.csv.gz``, ``azure.csv.gz``, ``gcp.csv.gz``: one row an offer with the columns backend, region, zone,
instance_type, gpu_vendor, gpu_name, gpu_memory_gib, gpu_count, price, spot_price, source, source_date (others are not read).
AWS_TYPES is a table of instance types: instance_type, vcpus, memory_mib, arch, spot. NOTICE beside the written files says where
the present ones are from; keep it true. Only what a licence lets us ship goes in: sizes of Azure's and GCP's machines are not
taken from PRICES but from their names (``price_rules``); where a name does not say it, the size is not known (NaN).
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections.abc import Iterator
from math import nan
from pathlib import Path
from typing import Any

import price_rules

from dstack_jupyter.models.gpus import short_name
from dstack_jupyter.offers import snapshot
from dstack_jupyter.offers.rows import Rows

OUT = Path(__file__).resolve().parents[1] / "dstack_jupyter" / "offers" / "prices"
GPU_NAMES = {"HL-205": "Gaudi"}
NO_SPOT_PRICE = "its spot price is not published: it shows when the account is configured"
DIGITS = 6


def sizes_of_aws(path: Path) -> dict[str, tuple[float, float, str, bool]]:
    """(vCPUs, GB, arch, whether there is spot) by instance type."""
    found = {name: (*size, "x86", True) for name, size in price_rules.AWS.items()}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            arch = "arm" if row["arch"].startswith("arm") else "x86"
            found[row["instance_type"]] = (float(row["vcpus"]), float(row["memory_mib"]) / 1024, arch, row["spot"] == "1")
    return found


def offers(backend: str, path: Path, aws: dict[str, tuple[float, float, str, bool]]) -> Iterator[dict[str, Any]]:
    """On-demand and spot rows. Prices of 0 mean unknown: there is no on-demand row without a price."""
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            name = row["instance_type"]
            spot = row["spot_price"] and float(row["spot_price"])
            if backend == "aws":
                cpus, memory, arch, has_spot = aws.get(name, (nan, nan, "x86", False))
            elif backend == "azure":
                cpus, memory, arch = price_rules.azure(name)
                has_spot = not name.removeprefix("Standard_").startswith("B") and "Promo" not in name
            else:
                cpus, memory, arch = price_rules.gcp(name)
                has_spot = bool(spot)
            gpus = int(row["gpu_count"] or 0)
            common = {
                "backend": backend,
                "region": row["region"],
                "zone": row["zone"],
                "instance_type": name,
                "cpus": cpus,
                "memory_gb": memory,
                "disk_gb": nan,
                "gpu_vendor": row["gpu_vendor"] if gpus else "",
                "gpu_name": GPU_NAMES.get(row["gpu_name"]) or short_name(row["gpu_name"]) if gpus else "",
                "gpu_memory_gb": float(row["gpu_memory_gib"] or nan) if gpus else 0.0,
                "gpu_count": gpus,
                "cpu_arch": arch,
                "availability": "unknown",
                "source": "catalog",
                "price_date": row["source_date"],
            }
            price = round(float(row["price"] or 0), DIGITS)
            if price > 0:
                yield {**common, "spot": False, "price": price, "reason": ""}
                if spot and float(spot) > 0:
                    yield {**common, "spot": True, "price": round(float(spot), DIGITS), "reason": ""}
                elif has_spot:
                    yield {**common, "spot": True, "price": nan, "reason": NO_SPOT_PRICE}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prices", type=Path, metavar="PRICES")
    parser.add_argument("aws_types", type=Path, metavar="AWS_TYPES")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    aws = sizes_of_aws(asked.aws_types)
    for backend in snapshot.SHIPPED:
        found = list(offers(backend, asked.prices / f"{backend}.csv.gz", aws))
        rows = Rows.of({name: [row[name] for row in found] for name in found[0]})
        path = asked.out / f"{backend}.npz"
        snapshot.write(rows, path)
        gpus = int((rows.numbers["gpu_count"] > 0).sum())
        print(f"{path.name}: {len(rows)} rows, {gpus} with GPUs, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
