"""What else offers become: JSON with the documented keys, groups, text for a shell, lines below a table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dstack_jupyter import api
from dstack_jupyter.backends.collect import collect
from dstack_jupyter.display.offers import beside_html, beside_text, groups_text, offers_text
from dstack_jupyter.models.errors import ConfigurationError
from dstack_jupyter.models.offers import NOT_AVAILABLE_YET, Missing
from dstack_jupyter.models.resources import Resources
from dstack_jupyter.offers.groups import group, parse
from dstack_jupyter.offers.requirements import Requirements
from dstack_jupyter.offers.rows import Rows

from .vendors import columns, row

pytestmark = pytest.mark.usefixtures("home")
NAN = float("nan")


def some_rows() -> Rows:
    return Rows.of(
        columns(
            row("aws", price=10.0, gpu_count=4, spot=True, zone="z", region="r1"),
            row("aws", price=30.0, gpu_count=8, spot=False, zone="", region="r2"),
            row("gcp", price=NAN, gpu_count=8, spot=True, zone="", region="r1"),
            row("gcp", price=3.0, gpu_count=1, gpu_name="T4", gpu_memory_gb=16.0, spot=False, zone="", region="r1"),
            row("gcp", price=1.0, gpu_count=0, gpu_name="", gpu_memory_gb=0.0, gpu_vendor="", spot=False, zone="", region="r1"),
        )
    )


def test_json_has_the_documented_keys() -> None:
    hosts = columns(row("ssh", price=0.0, zone="", total_blocks=4, blocks=3, availability="idle"))
    found = collect(Requirements(Resources.model_validate({"gpu": "H100:2"}), backends=("ssh",)), {"ssh": hosts}).json()
    assert found == json.loads(json.dumps(found, allow_nan=False))
    assert (found["total_offers"], found["missing"], found["notes"], found["empty"]) == (1, [], [], "")
    assert found["requirements"]["resources"] == {"gpu": {"name": ["H100"], "count": {"min": 2, "max": 2}}}
    assert found["requirements"]["backends"] == ["ssh"]
    (offer,) = found["offers"]
    assert offer == {
        "backend": "ssh",
        "region": "moon",
        "price": 0.0,
        "backend_data": {},
        "availability": "idle",
        "availability_zones": None,
        "instance": {
            "name": "gpu-1",
            "resources": {
                "cpus": 8.0,
                "memory_mib": 65536,
                "gpus": [{"name": "H100", "memory_mib": 81920, "vendor": "nvidia"}] * 8,
                "spot": False,
                "disk": {"size_mib": 512000},
                "cpu_arch": "x86",
            },
        },
        "instance_runtime": "shim",
        "blocks": 1,
        "total_blocks": 4,
        "reason": "",
        "source": "test",
        "price_date": None,
    }


def test_json_says_null_for_what_is_not_known() -> None:
    hosts = columns(row("ssh", price=NAN, cpus=NAN, memory_gb=NAN, disk_gb=NAN, gpu_memory_gb=NAN))
    (offer,) = collect(Requirements(Resources(), backends=("ssh",)), {"ssh": hosts}).json()["offers"]
    resources = offer["instance"]["resources"]
    assert (offer["price"], resources["cpus"], resources["memory_mib"], resources["disk"]) == (
        None,
        None,
        None,
        {"size_mib": None},
    )
    assert resources["gpus"][0]["memory_mib"] is None


@pytest.mark.parametrize(
    ("wanted", "needed"), [("H100:1", 1), ("H100:2", 1), ("H100:3", 2), ("H100:8", 4), ("H100", 1), (None, 1)]
)
def test_blocks_are_what_the_wish_takes_of_a_host(wanted: str | None, needed: int) -> None:
    hosts = columns(row("ssh", price=0.0, total_blocks=4))
    resources = Resources.model_validate({"gpu": wanted} if wanted else {})
    (offer,) = collect(Requirements(resources, backends=("ssh",)), {"ssh": hosts}).json()["offers"]
    assert offer["blocks"] == needed


def test_groups_by_gpu() -> None:
    found = group(some_rows(), ("gpu",))
    assert found["gpu_name"] == ["H100", "T4"]
    assert found["spot"] == ["on-demand, spot", "on-demand"]
    assert (found["price_per_gpu"], found["price_per_gpu_max"]) == ([2.5, 3.0], [3.75, 3.0])
    assert (found["backends"], found["regions"], found["gpu_counts"]) == (["aws, gcp", "gcp"], ["r1, r2", "r1"], ["4, 8", "1"])
    assert found["offers"] == [3, 1]


def test_groups_by_more() -> None:
    by = group(some_rows(), ("gpu", "backend", "region", "count"))
    assert list(zip(by["gpu_name"], by["backend"], by["region"], by["gpu_count"], by["offers"], strict=True)) == [
        ("H100", "aws", "r1", 4, 1),
        ("T4", "gcp", "r1", 1, 1),
        ("H100", "aws", "r2", 8, 1),
        ("H100", "gcp", "r1", 8, 1),
    ]
    assert "backends" not in by and "gpu_counts" not in by
    assert by["price_per_gpu"][-1] != by["price_per_gpu"][-1], "a group without a known price is last, and its price is NaN"


def test_every_offer_with_a_gpu_is_in_one_group() -> None:
    found = api.find_offers(gpu="1..")
    for keys in ("gpu", "gpu,backend", "gpu,backend,region,count", "gpu,count"):
        assert sum(found.groups(keys)["offers"]) == len(found.rows)
    frame = found.frame(5, "gpu")
    assert len(frame) == 5 and frame.attrs["total_offers"] == len(found.rows)


@pytest.mark.parametrize(
    ("text", "hint"), [("backend", "keys:"), ("gpu,price", "keys:"), ("gpu,region", "gpu,backend,region"), ("", "keys:")]
)
def test_wrong_groups_are_refused(text: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert hint in caught.value.hint
    assert parse("gpu, backend,backend") == ("gpu", "backend")


def test_text_for_a_shell() -> None:
    lines = offers_text(some_rows().lists(), 9)
    assert lines[0].split() == ["BACKEND", "REGION", "INSTANCE", "TYPE", "RESOURCES", "SPOT", "$/H", "$/GPU", "PRICE", "OF"]
    assert " ".join(lines[1].split()) == "aws z gpu-1 8 CPUs, 64 GB, 4 × H100 80 GB spot $10.00 $2.50"
    assert " ? " in lines[3]
    assert lines[-1] == "… and 4 more: --max-offers 9 shows all"
    assert offers_text(Rows.none().lists(), 0) == []
    grouped = groups_text(group(some_rows(), ("gpu",)), 2)
    assert "GPU NAME" in grouped[0] and "$2.5" in grouped[1]


def test_lines_below_a_table_are_text_never_markup() -> None:
    missing = [
        Missing(backend="lambda", reason="<b>no</b> key", hint="get one"),
        Missing(backend="oci", reason=NOT_AVAILABLE_YET),
    ]
    notes = [Missing(backend="aws", reason="list prices")]
    assert beside_text(missing, notes, "no offer fits") == [
        "no offer fits",
        "aws: list prices",
        "no offers of lambda: <b>no</b> key (get one)",
        "no offers of oci: not available yet",
    ]
    html = beside_html(missing, notes, "no <offer>")
    assert "<b>no</b> key" not in html and "&lt;b&gt;no&lt;/b&gt; key" in html and "no &lt;offer&gt;" in html
    assert html.index("<details") < html.index(">oci<")


def of(**asked: Any) -> tuple[str, dict[str, str]]:
    found = api.find_offers(**asked)
    return found.empty, {line.backend: line.reason + line.hint for line in found.missing}


def test_an_empty_result_says_which_filter_took_the_last_rows_and_near_names() -> None:
    empty, lines = of(gpu="H1000", backends=("aws", "gcp"))
    assert empty.startswith("no offer fits: `gpu name` removed the last ones; did you mean H100")
    assert lines["aws"].startswith("none of its offers passes `gpu name`did you mean H100")
    assert of(gpu="H100:8", max_price=0.01, backends=("aws",))[0] == "no offer fits: `max_price` removed the last one"
    empty, lines = of(gpu="RTXPRO60000", backends=("runpod",))
    assert (empty, set(lines)) == ("no backend has an offer", {"runpod"})


def test_every_backend_has_rows_or_a_line() -> None:
    from dstack_jupyter.backends import registry

    for asked in ({}, {"gpu": "H100:8"}, {"gpu": "none"}, {"spot_policy": "spot"}, {"regions": ("mars",)}):
        found = api.find_offers(**asked)  # type: ignore[arg-type]
        present = set(found.rows.text["backend"].compact().words) if len(found.rows) else set()
        said = [line.backend for line in found.missing]
        assert len(said) == len(set(said))
        assert present | set(said) == set(registry.entries) and not present & set(said)


def test_the_object_form_of_a_gpu_asks_for_what_the_short_one_cannot() -> None:
    found = api.find_offers(gpu="{total_memory: 1000GB.., compute_capability: 9.0}", backends=("aws",)).rows.lists()
    assert set(found["gpu_name"]) == {"B200", "B300", "H200"}
    assert min(count * memory for count, memory in zip(found["gpu_count"], found["gpu_memory_gb"], strict=True)) >= 1000
    with pytest.raises(ConfigurationError, match="--gpu"):
        api.find_offers(gpu="{total_memory: [}")
    with pytest.raises(ConfigurationError, match="--gpu"):
        api.find_offers(gpu="{memroy: 8GB}")


@pytest.mark.parametrize(
    ("asked", "flag"), [({"gpu": "24GB:x:y"}, "--gpu"), ({"cpu": "amd64"}, "--cpu"), ({"memory": "8G"}, "--memory")]
)
def test_a_wrong_flag_is_named(asked: dict[str, str], flag: str) -> None:
    with pytest.raises(ConfigurationError, match=flag):
        api.find_offers(**asked)  # type: ignore[arg-type]
