"""The shipped list prices: what is in them, how old they say they are, that they can be renewed, and that none is launched."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dstack_jupyter import api
from dstack_jupyter.backends.collect import collect
from dstack_jupyter.models.configurations import TaskConfiguration
from dstack_jupyter.offers import snapshot
from dstack_jupyter.offers.requirements import Requirements
from dstack_jupyter.offers.rows import Rows, Text
from dstack_jupyter.offers.table import OfferTable, order

ROOT = Path(__file__).resolve().parents[2]
PRICES = ROOT / "dstack_jupyter" / "offers" / "prices"


def test_the_snapshot_is_small_and_says_where_it_is_from() -> None:
    assert sum(path.stat().st_size for path in PRICES.iterdir()) < 2**20
    notice = (PRICES / "NOTICE").read_text()
    for name in snapshot.SHIPPED:
        assert f"{name}.npz" in notice
    assert "Apache License" in notice
    assert "CC BY-SA" not in notice


@pytest.mark.parametrize(("name", "least", "gpus"), [("aws", 25_000, 1_200), ("azure", 100_000, 1_200), ("gcp", 40_000, 900)])
def test_what_is_shipped(name: str, least: int, gpus: int) -> None:
    table = snapshot.shipped(name)
    rows, price = table.rows, table.rows.numbers["price"]
    assert len(rows) > least
    assert (rows.numbers["gpu_count"] > 0).sum() > gpus
    assert rows.text["backend"].words == [name]
    assert rows.text["source"].words == ["catalog"]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\d", date) for date in rows.text["price_date"].words)
    assert not (price <= 0).any(), "a price of 0 is one that is not known"
    unknown = np.isnan(price)
    assert rows.numbers["spot"][unknown].all(), "only spot prices may be unknown"
    reasons = {rows.text["reason"].words[code] for code in np.unique(rows.text["reason"].codes[unknown])}
    assert reasons <= {reason for reason in rows.text["reason"].words if "spot price is not published" in reason}
    assert set(rows.text["cpu_arch"].words) == {"x86", "arm"}
    assert (order(rows) == np.arange(len(rows))).all()


def test_what_a_gpu_machine_is_known_to_be() -> None:
    found = api.find_offers(gpu="H100:8", backends=("azure",), spot_policy="on-demand", regions=("eastus",)).rows.lists()
    assert (found["instance_type"], found["cpus"], found["memory_gb"]) == (["Standard_ND96isr_H100_v5"], [96.0], [1900.0])
    assert (found["gpu_memory_gb"], found["gpu_vendor"], found["price"]) == ([80.0], ["nvidia"], [98.32])


def test_memory_that_is_not_known_passes_and_is_shown_as_unknown() -> None:
    found = api.find_offers(backends=("azure",), memory="16GB..", regions=("eastus",))
    memory = np.array(found.rows.lists()["memory_gb"])
    assert np.isnan(memory).any()
    assert (memory[~np.isnan(memory)] >= 16).all()
    assert found.json(2000)["offers"][int(np.flatnonzero(np.isnan(memory))[0])]["instance"]["resources"]["memory_mib"] is None


def test_a_spot_price_that_is_not_published_leaves_a_row_with_its_reason() -> None:
    frame = api.offers(gpu="H100:8", backends=("aws",), spot_policy="spot")
    assert len(frame) > 0
    assert frame["price"].isna().all()
    assert frame["reason"].str.contains("spot price is not published").all()
    assert len(api.offers(gpu="H100:8", backends=("aws",), spot_policy="spot", max_price=1000)) == 0


def test_prices_older_than_a_year_are_flagged() -> None:
    rows = Rows.of({"backend": ["x"] * 3, "price_date": ["2025-03-02", "2026-07-20", "2025-03-02"], "reason": ["", "why", "why"]})
    day = 86400.0
    at = 1785542400.0  # 2026-08-01
    assert snapshot.flagged(rows, at).values() == ["price of more than a year ago", "why", "why; price of more than a year ago"]
    assert snapshot.flagged(rows, at - 180 * day).values() == ["", "why", "why"]
    assert snapshot.flagged(rows, at + 360 * day).values()[1] == "why; price of more than a year ago"


def test_a_written_file_reads_as_the_same_table() -> None:
    rows = Rows.of(
        {
            "backend": ["a", "b", "a", "a"],
            "region": ["r", "s", "r", "ü"],
            "zone": ["", "z", "", ""],
            "instance_type": ["m1", "m2", "m1", "m3"],
            "cpus": [1, 2, 1, math.nan],
            "memory_gb": [0.6, math.nan, 0.6, 8],
            "gpu_count": [0, 8, 0, 1],
            "gpu_name": ["", "H100", "", "T4"],
            "gpu_memory_gb": [0, 80, 0, math.nan],
            "price": [0.000001, math.nan, 4000.5, 0.3],
            "spot": [False, True, True, False],
            "availability": ["unknown", "unknown", "no_quota", "available"],
            "price_date": ["2026-01-01", "", "", ""],
        }
    )
    file = io.BytesIO()
    snapshot.write(rows, file)
    read, made = snapshot.read(file.getvalue()).rows.lists(), OfferTable(rows).rows.lists()
    assert repr(sorted(read.items())) == repr(sorted(made.items()))


def test_prices_that_do_not_fit_the_file_are_refused() -> None:
    for price in (0.0000001, 5000.0):
        with pytest.raises(ValueError):
            snapshot.write(Rows.of({"backend": ["a"], "price": [price]}), io.BytesIO())


def test_text_keeps_only_the_words_that_rows_have() -> None:
    text = Text.of(["b", "a", "b", "c"])
    some = text.take(np.array([3, 0]))
    assert (some.compact().words, some.compact().values(), text.words) == (["b", "c"], ["c", "b"], ["b", "a", "c"])


def test_list_prices_stand_in_for_offers_and_say_so(home: object) -> None:
    found = api.find_offers(gpu="H100:8")
    assert {"aws", "azure", "gcp"} == set(found.rows.text["backend"].compact().words)
    notes = {line.backend: line.reason for line in found.notes}
    assert notes["aws"].startswith("list prices of 20")
    assert notes["aws"].endswith("nothing can be launched there (not available yet)")
    assert not {"aws", "azure", "gcp"} & {line.backend for line in found.missing}


@pytest.mark.parametrize("keys", [{}, {"backends": ["aws", "gcp"]}, {"resources": {"gpu": "H100:8"}}])
def test_a_run_is_never_placed_by_a_list_price(home: object, keys: dict[str, object]) -> None:
    task = TaskConfiguration.model_validate({"commands": ["x"], **keys})
    found = collect(Requirements.of_task(task))
    assert not {"aws", "azure", "gcp"} & set(found.rows.lists()["backend"])
    assert {line.backend: line.reason for line in found.missing}["aws"] == "not available yet"


def test_the_snapshot_can_be_renewed(tmp_path: Path) -> None:
    head = ["backend", "region", "zone", "instance_type", "vcpus", "memory_gib", "gpu_vendor", "gpu_name", "gpu_memory_gib"]
    head += ["gpu_count", "cpu_arch", "price", "spot_price", "source", "source_date"]
    lists = {
        "aws": ["r", "", "g4dn.xlarge", "9", "9", "nvidia", "T4", "16", "1", "x86", "0.526", "", "s", "2026-07-20"],
        "azure": ["r", "", "Standard_D4ps_v5", "9", "9", "", "", "", "0", "x86", "0.1", "", "s", "2026-06-18"],
        "gcp": ["r", "", "n2-standard-8", "9", "9", "", "", "", "0", "x86", "0.3885", "0.0942", "s", "2026-08-06"],
    }
    for name, values in lists.items():
        with gzip.open(tmp_path / f"{name}.csv.gz", "wt", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([head, [name, *values], [name, *values[:10], "0.0", "", *values[12:]]])
    (tmp_path / "types.csv").write_text("instance_type,vcpus,memory_mib,arch,spot\ng4dn.xlarge,4,16384,x86_64,1\n")
    command = [
        sys.executable,
        "tools/renew_prices.py",
        str(tmp_path),
        str(tmp_path / "types.csv"),
        "--out",
        str(tmp_path / "out"),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    tables = {name: snapshot.read((tmp_path / "out" / f"{name}.npz").read_bytes()).rows.lists() for name in snapshot.SHIPPED}
    aws, azure, gcp = tables["aws"], tables["azure"], tables["gcp"]
    assert (aws["cpus"], aws["memory_gb"], aws["spot"], str(aws["price"])) == ([4, 4], [16, 16], [False, True], "[0.526, nan]")
    # Sizes come from the name, not from the list: that of the list may not be ours to ship.
    assert (azure["cpus"][0], azure["memory_gb"][0], azure["cpu_arch"][0]) == (4, 16, "arm")
    assert (gcp["cpus"], gcp["memory_gb"], gcp["price"], gcp["spot"]) == ([8, 8], [32, 32], [0.0942, 0.3885], [True, False])
