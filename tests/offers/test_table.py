"""Queries over the table of offers, and the DataFrame that users get."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest

from dstack_jupyter.models.configurations import TaskConfiguration
from dstack_jupyter.models.resources import Resources
from dstack_jupyter.offers.frame import to_frame
from dstack_jupyter.offers.requirements import Requirements
from dstack_jupyter.offers.rows import Rows
from dstack_jupyter.offers.table import OfferTable, Selection, merge

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

COLUMNS = (
    "backend", "region", "zone", "instance_type", "cpus", "memory_gb", "disk_gb", "gpu_vendor", "gpu_name", "gpu_count",
    "gpu_memory_gb", "cpu_arch", "spot", "price", "price_per_gpu", "price_per_gpu_gb", "availability", "reason", "source",
    "price_date",
)  # fmt: skip
"""The columns of the DataFrame, in order (design §4), told apart from where they are declared."""


def table(*rows: dict[str, Any]) -> OfferTable:
    full = [{**ROW, **row} for row in rows]
    return OfferTable.of({name: [row[name] for row in full] for name in ROW})


def ask(found: OfferTable, **keys: Any) -> Selection:
    task = TaskConfiguration.model_validate({"commands": ["x"], **keys})
    return found.query(Requirements.of_task(task))


def column(found: Selection, name: str) -> list[Any]:
    return found.rows().lists()[name]


def test_defaults_filter_rented_machines_and_not_the_users_own() -> None:
    offers = table(LOCAL, {**LOCAL, "backend": "ssh"}, {**LOCAL, "backend": "cloud"}, {})
    assert column(ask(offers), "backend") == ["local", "ssh", "cloud"]
    assert column(ask(offers, resources={"memory": "4GB.."}), "backend") == ["cloud"]
    assert column(ask(offers, resources={"cpu": 1}), "backend") == ["local", "ssh"]
    assert column(ask(offers, resources={"disk": "50GB.."}), "backend") == ["cloud"]


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
    assert column(ask(offers, resources={"gpu": "A100:0.."}), "gpu_name") == ["", "A100"]


def test_ones_own_machine_shares_its_gpus() -> None:
    offers = table({**LOCAL, **A100})
    assert len(ask(offers, resources={"gpu": "A100:1"})) == 1
    assert len(ask(offers, resources={"gpu": "A100:3"})) == 0


def test_cheapest_first_and_what_cannot_be_had_last() -> None:
    prices = [round(random.random() * 10, 3) for _ in range(200)]
    offers = table(*({"price": price} for price in prices), {"price": 0.01, "availability": "no_quota"})
    found = column(ask(offers), "price")
    assert found[:-1] == sorted(prices)
    assert found[-1] == 0.01


def test_for_each_backend_left_without_a_row_the_filter_that_took_its_last_one() -> None:
    offers = table(LOCAL, A100, {"region": "us"}, {**A100, "backend": "other", "price": 0.2})
    found = ask(offers, regions=["eu", "local"], max_price=0.5, resources={"gpu": "A100"})
    assert found.removed_by() == {"cloud": "max_price", "local": "gpu name"}
    assert found.backends() == {"other": 1}
    assert ask(offers).removed_by() == {}
    assert ask(table()).removed_by() == {}


def test_what_is_not_known_passes_sizes_but_never_a_limit_of_price() -> None:
    nan = float("nan")
    offers = table({**A100, "memory_gb": nan, "cpus": nan, "disk_gb": nan, "gpu_memory_gb": nan, "price": nan})
    assert len(ask(offers, resources={"gpu": "A100:80GB:2", "memory": "512GB..", "cpu": 64, "disk": "9TB.."})) == 1
    assert len(ask(offers, resources={"gpu": {"total_memory": "160GB.."}})) == 1
    assert ask(offers, max_price=1000).removed_by() == {"cloud": "max_price"}


def test_a_price_that_is_not_known_comes_after_those_that_are() -> None:
    offers = table({"price": float("nan")}, {"price": 9.0}, {"price": 1.0}, {"price": 0.5, "availability": "busy"})
    assert [str(price) for price in column(ask(offers), "price")] == ["1.0", "9.0", "nan", "0.5"]


@pytest.mark.parametrize(
    ("gpu", "names"),
    [
        ({"compute_capability": "8.0"}, ["A100", "H100"]),
        ({"compute_capability": "8.6"}, ["H100"]),
        ({"compute_capability": "7.0"}, ["V100", "A100", "H100"]),
        ({"compute_capability": 9.0, "count": {"min": 0}}, ["", "H100"]),
        ({"vendor": "amd"}, ["MI300X"]),
        ("a100,h100", ["A100", "H100"]),
        ("1..2", ["V100", "A100"]),
        ("3..", ["H100", "MI300X"]),
        ("..2", ["", "V100", "A100"]),
        ("0", [""]),
    ],
)
def test_wishes_for_gpus(gpu: Any, names: list[str]) -> None:
    offers = table(
        {"price": 1.0},
        {**A100, "gpu_name": "V100", "gpu_count": 1, "gpu_memory_gb": 16.0, "price": 2.0},
        {**A100, "price": 3.0},
        {**A100, "gpu_name": "H100", "gpu_count": 8, "price": 4.0},
        {**A100, "gpu_name": "MI300X", "gpu_vendor": "amd", "gpu_count": 8, "gpu_memory_gb": 192.0, "price": 5.0},
    )
    assert column(ask(offers, image="any", resources={"gpu": gpu}), "gpu_name") == names


def test_without_an_image_no_gpu_is_rented_that_the_default_image_cannot_use() -> None:
    amd = {**A100, "gpu_name": "MI300X", "gpu_vendor": "amd", "gpu_memory_gb": 192.0, "price": 0.5}
    offers = table(A100, amd, {**amd, "backend": "ssh", "price": 0.0})
    assert column(ask(offers, resources={"gpu": "24GB.."}), "gpu_name") == ["MI300X", "A100"]
    assert column(ask(offers, resources={"gpu": "24GB.."}), "backend") == ["ssh", "cloud"]
    for asked in ({"resources": {"gpu": "amd:24GB.."}}, {"resources": {"gpu": "MI300X"}}):
        assert column(ask(offers, **asked), "gpu_vendor") == ["amd", "amd"]
    assert len(ask(offers, resources={"gpu": "24GB.."}, image="rocm/pytorch")) == 3
    blamed = ask(table(amd), resources={"gpu": "24GB.."}).removed_by()
    assert blamed == {"cloud": "gpu vendor: the default image is made for nvidia"}
    assert column(ask(table({}, amd), resources={"gpu": "0.."}), "gpu_name") == [""]


def test_zones_and_regions_are_exact() -> None:
    offers = table({"zone": "eu-a"}, {"zone": "eu-b"})
    assert column(ask(offers, availability_zones=["eu-b"]), "zone") == ["eu-b"]
    assert ask(offers, regions=["EU"]).removed_by() == {"cloud": "regions"}


def test_the_cheapest_few_are_the_first_of_all() -> None:
    rows = [{"price": price / 100, "region": "eu" if price % 97 == 0 else "us"} for price in range(20_000)]
    offers = table(*rows)
    wanted = Requirements(Resources(), regions=("eu",), defaults_filter=False)
    everything = offers.query(wanted).rows().lists()["price"]
    assert len(everything) == 207
    for limit in (0, 1, 10, 207, 500):
        assert offers.query(wanted, limit).rows().lists()["price"] == everything[:limit]
    every = Requirements(Resources(), defaults_filter=False)
    assert offers.query(every, 15_000).rows().lists()["price"] == [row["price"] for row in rows[:15_000]]


def test_hits_of_several_tables_are_one_in_order() -> None:
    here = table({**LOCAL, "price": 2.0}, {**LOCAL, "price": 4.0, "reason": "why"})
    there = table({"price": 3.0}, {"price": 1.0, "availability": "no_quota"}, {"price": 5.0})
    wanted = Requirements(Resources(), defaults_filter=False)
    found = merge([here.query(wanted), there.query(wanted)]).lists()
    assert found["price"] == [2.0, 3.0, 4.0, 5.0, 1.0]
    assert found["backend"] == ["local", "cloud", "local", "cloud", "cloud"]
    assert found["reason"] == ["", "", "why", "", ""]
    assert len(merge([])) == 0


def test_columns_that_are_no_table_are_refused() -> None:
    good = {"backend": ["x"], "instance_type": ["m"], "cpus": [1], "memory_gb": [1], "price": [1]}
    assert len(OfferTable.of(good)) == 1
    for wrong in ({"cpus": ["many"]}, {"cpus": [1, 2]}, {"region": []}, {"zone": [None]}, {"gpu_count": [None]}):
        with pytest.raises((ValueError, TypeError)):
            OfferTable.of({**good, **wrong})


def test_the_frame_has_exactly_the_columns_and_types_of_the_design() -> None:
    frame = to_frame(ask(table(LOCAL, A100)).rows())
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
    assert frame["price_per_gpu"].isna().tolist() == [True, False]
    assert (frame["price_per_gpu"][1], frame["price_per_gpu_gb"][1]) == (2.0, 0.025)
    some = to_frame(ask(table(LOCAL, A100), backends=["cloud"]).rows())
    assert list(some["backend"].cat.categories) == ["cloud"], "a category that no row has would haunt every groupby"


def test_an_empty_frame_keeps_its_columns_and_types() -> None:
    full, empty = to_frame(table({}).rows), to_frame(ask(table({}), max_price=0.1).rows())
    assert tuple(empty.columns) == COLUMNS
    kinds = [[str(kind) for name, kind in frame.dtypes.items()] for frame in (full, empty)]
    assert kinds[0] == kinds[1]
    assert tuple(to_frame(Rows.none()).columns) == COLUMNS


def test_a_frame_is_the_users_own() -> None:
    offers = table({"price": 1.0}, {"price": 2.0})
    frame = to_frame(ask(offers).rows())
    frame["price"] = frame["price"] * 2
    frame.loc[0, "cpus"] = 99.0
    assert column(ask(offers), "price") == [1.0, 2.0]
    assert column(ask(offers), "cpus") == [8.0, 8.0]


def test_a_query_needs_no_pandas() -> None:
    code = "import sys, dstack_jupyter.offers.table, dstack_jupyter.backends.collect; sys.exit('pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
