"""Queries over the table of offers, and the DataFrame that users get."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from typing import Any

import pytest

from dstack_jupyter.models.configurations import TaskConfiguration
from dstack_jupyter.models.resources import Resources
from dstack_jupyter.models.runs import Missing
from dstack_jupyter.offers.frame import to_frame
from dstack_jupyter.offers.requirements import Requirements
from dstack_jupyter.offers.table import COLUMNS, OfferTable, merge

ROW: dict[str, Any] = {
    "backend": "cloud", "region": "eu", "zone": "", "instance_type": "m", "cpus": 8.0, "memory_gb": 32.0, "disk_gb": 200.0,
    "gpu_vendor": "", "gpu_name": "", "gpu_count": 0, "gpu_memory_gb": 0.0, "cpu_arch": "x86", "spot": False, "price": 1.0,
    "availability": "available", "reason": "", "source": "test", "price_date": "",
}  # fmt: skip
A100 = {"gpu_vendor": "nvidia", "gpu_name": "A100", "gpu_count": 2, "gpu_memory_gb": 80.0, "price": 4.0}
LOCAL = {
    "backend": "local",
    "region": "local",
    "instance_type": "local",
    "cpus": 1.0,
    "memory_gb": 2.0,
    "disk_gb": 5.0,
    "price": 0.0,
}


def table(*rows: dict[str, Any]) -> OfferTable:
    found = OfferTable()
    for row in rows:
        found.extend({name: [value] for name, value in {**ROW, **row}.items()})
    return found


def ask(found: OfferTable, **keys: Any) -> OfferTable:
    task = TaskConfiguration.model_validate({"commands": ["x"], **keys})
    return found.query(Requirements.of_task(task))


def test_defaults_filter_rented_machines_and_not_the_users_own() -> None:
    offers = table(LOCAL, {**LOCAL, "backend": "ssh"}, {**LOCAL, "backend": "cloud"}, {})
    assert ask(offers).columns["backend"] == ["local", "ssh", "cloud"]
    assert ask(offers, resources={"memory": "4GB.."}).columns["backend"] == ["cloud"]
    assert ask(offers, resources={"cpu": 1}).columns["backend"] == ["local", "ssh"]
    assert ask(offers, resources={"disk": "50GB.."}).columns["backend"] == ["cloud"]


def test_what_nobody_asked_for_does_not_filter_the_offers_command() -> None:
    small = table({"cpus": 1.0, "memory_gb": 1.0, "disk_gb": 1.0})
    assert len(small.query(Requirements(Resources(), defaults_filter=False))) == 1
    assert len(small.query(Requirements(Resources()))) == 0


@pytest.mark.parametrize(
    ("keys", "fits"),
    [
        ({"regions": ["eu", "us"]}, True),
        ({"regions": ["us"]}, False),
        ({"instance_types": ["m"]}, True),
        ({"instance_types": ["n"]}, False),
        ({"backends": ["cloud"]}, True),
        ({"backends": ["local"]}, False),
        ({"spot_policy": "spot"}, False),
        ({"spot_policy": "auto"}, True),
        ({"spot_policy": "on-demand"}, True),
        ({"max_price": 4}, True),
        ({"max_price": 3.99}, False),
        ({"resources": {"cpu": "x86:8"}}, True),
        ({"resources": {"cpu": "arm:8"}}, False),
        ({"resources": {"cpu": 4}}, False),
        ({"resources": {"memory": "16GB..32GB"}}, True),
        ({"resources": {"memory": "64GB.."}}, False),
        ({"resources": {"gpu": "a100"}}, True),
        ({"resources": {"gpu": "A100:80GB:2"}}, True),
        ({"resources": {"gpu": "A100:80GB:1"}}, False),
        ({"resources": {"gpu": "A100:40GB"}}, False),
        ({"resources": {"gpu": "H100"}}, False),
        ({"resources": {"gpu": "amd"}}, False),
        ({"resources": {"gpu": {"total_memory": "160GB.."}}}, True),
        ({"resources": {"gpu": {"total_memory": "161GB.."}}}, False),
        ({"resources": {"gpu": 0}}, False),
    ],
)
def test_filters(keys: dict[str, Any], fits: bool) -> None:
    assert len(ask(table(A100), **keys)) == fits


def test_a_wish_for_gpus_that_may_be_none_leaves_machines_without() -> None:
    offers = table({}, A100, {**A100, "gpu_name": "H100"})
    assert ask(offers, resources={"gpu": "A100:0.."}).columns["gpu_name"] == ["", "A100"]


def test_ones_own_machine_shares_its_gpus() -> None:
    offers = table({**LOCAL, **A100})
    assert len(ask(offers, resources={"gpu": "A100:1"})) == 1
    assert len(ask(offers, resources={"gpu": "A100:3"})) == 0


def test_cheapest_first_and_what_cannot_be_had_last() -> None:
    prices = [round(random.random() * 10, 3) for _ in range(200)]
    offers = table(*({"price": price} for price in prices), {"price": 0.01, "availability": "no_quota"})
    found = ask(offers).columns["price"]
    assert found[:-1] == sorted(prices)
    assert found[-1] == 0.01


def test_an_empty_result_says_which_filter_took_the_last_row() -> None:
    offers = table(LOCAL, A100, {"region": "us"})
    empty = ask(offers, regions=["eu", "local"], max_price=0.5, resources={"gpu": "A100"})
    assert empty.removed_by == {"cloud": "max_price", "local": "gpu name"}
    assert empty.why_empty() == "no offer fits: `max_price`, `gpu name` removed the last ones"
    assert OfferTable().query(Requirements(Resources())).why_empty() == "no backend has an offer"
    assert ask(offers).why_empty() == ""


def test_the_frame_has_exactly_the_columns_and_types_of_the_design() -> None:
    missing = [Missing(backend="aws", reason="not available yet", hint="wait")]
    frame = to_frame(ask(table(LOCAL, A100)), missing)
    assert tuple(frame.columns) == COLUMNS
    kinds = {name: str(kind) for name, kind in frame.dtypes.items()}
    numbers = {name: kind for name, kind in kinds.items() if kind != "category"}
    assert numbers == {
        **dict.fromkeys(("cpus", "memory_gb", "disk_gb", "gpu_memory_gb", "price"), "float64"),
        **dict.fromkeys(("price_per_gpu", "price_per_gpu_gb"), "float64"),
        "gpu_count": "int64",
        "spot": "bool",
        "price_date": numbers["price_date"],
    }
    assert numbers["price_date"].startswith("datetime64")
    assert frame.attrs["missing"] == [{"backend": "aws", "reason": "not available yet", "hint": "wait"}]
    assert frame["price_per_gpu"].isna().tolist() == [True, False]
    assert (frame["price_per_gpu"][1], frame["price_per_gpu_gb"][1]) == (2.0, 0.025)


def test_an_empty_frame_keeps_its_types_and_says_why() -> None:
    full, empty = to_frame(table({}), []), to_frame(ask(table({}), max_price=0.1), [])
    assert tuple(empty.columns) == COLUMNS
    assert [str(kind) for kind in empty.dtypes] == [str(kind) for kind in full.dtypes]
    assert empty.attrs["empty"] == "no offer fits: `max_price` removed the last one"
    assert tuple(to_frame(OfferTable(), []).columns) == COLUMNS


def test_a_large_table_is_queried_quickly() -> None:
    count = 40_000
    offers = OfferTable()
    offers.extend({name: [value] * count for name, value in {**ROW, **A100}.items()})
    begin = time.perf_counter()
    assert len(ask(offers, resources={"gpu": "A100:80GB:2"}, regions=["eu"], max_price=9)) == count
    assert time.perf_counter() - begin < 2


def test_a_query_needs_no_pandas() -> None:
    code = "import sys, dstack_jupyter.offers.table, dstack_jupyter.backends.collect; sys.exit('pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
