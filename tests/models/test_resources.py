"""The grammars of resources and durations, as dstack users know them (reference `configuration` §4.4)."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from dstack_jupyter.models.durations import Duration, DurationOrOff, IdleDuration
from dstack_jupyter.models.resources import Resources, parse_memory

SIZES = st.integers(0, 10_000)


def resources(**keys: Any) -> Resources:
    return Resources.model_validate(keys)


@pytest.mark.parametrize(
    ("text", "gigabytes"),
    [("24GB", 24), ("24 gb", 24), ("512MB", 0.5), ("1.5TB", 1536), (24, 24), (0.5, 0.5), ("16", 16), (".5GB", 0.5)],
)
def test_memory(text: object, gigabytes: float) -> None:
    assert parse_memory(text) == gigabytes


@pytest.mark.parametrize("text", ["24GiB", "8G", "", "-1GB", -1, math.nan, math.inf, 10**400, True, None, [], "9" * 400])
def test_what_is_no_memory(text: object) -> None:
    with pytest.raises(ValueError):
        parse_memory(text)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (4, (4, 4)),
        ("4", (4, 4)),
        ("4..", (4, None)),
        ("..8", (None, 8)),
        ("4..8", (4, 8)),
        ({"min": 4}, (4, None)),
        ({"min": "4", "max": 8}, (4, 8)),
    ],
)
def test_ranges(text: object, ends: tuple[int | None, int | None]) -> None:
    count = resources(cpu=text).cpu.count
    assert (count.min, count.max) == ends
    memory = resources(memory=text).memory
    assert (memory.min, memory.max) == ends


@pytest.mark.parametrize("text", ["..", "8..4", "", "a", "1...2", {"min": 8, "max": 4}, {}, {"least": 1}, "-1", -1, True])
@pytest.mark.parametrize("key", ["memory", "cpu", "disk"])
def test_what_is_no_range(text: object, key: str) -> None:
    if key == "memory" or text != {}:  # an empty map is the default cpu or disk
        with pytest.raises(ValidationError):
            resources(**{key: text})


@pytest.mark.parametrize("text", ["arm:8", "8:arm", " ARM : 8 ", {"arch": "arm", "count": 8}])
def test_cpu_tokens_come_in_any_order(text: object) -> None:
    cpu = resources(cpu=text).cpu
    assert (cpu.arch, cpu.count.min, cpu.count.max) == ("arm", 8, 8)


@pytest.mark.parametrize("text", ["amd64", "amd64:4", "arm:x86", "4:8", "4:", ":", 2.5])
def test_what_is_no_cpu(text: object) -> None:
    with pytest.raises(ValidationError):
        resources(cpu=text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A100:80GB:2", {"name": ["A100"], "memory": {"min": 80, "max": 80}, "count": {"min": 2, "max": 2}}),
        ("2:80GB:A100", {"name": ["A100"], "memory": {"min": 80, "max": 80}, "count": {"min": 2, "max": 2}}),
        ("24GB", {"memory": {"min": 24, "max": 24}, "count": {"min": 1, "max": None}}),
        ("24GB..", {"memory": {"min": 24, "max": None}, "count": {"min": 1, "max": None}}),
        ("..80GB", {"memory": {"min": None, "max": 80}, "count": {"min": 1, "max": None}}),
        ("A100,H100:1..4", {"name": ["A100", "H100"], "count": {"min": 1, "max": 4}}),
        ("tpu:v5p", {"vendor": "google", "name": ["v5p"]}),
        ("tt", {"vendor": "tenstorrent"}),
        ("NVIDIA:T4", {"vendor": "nvidia", "name": ["T4"]}),
        ("0", {"count": {"min": 0, "max": 0}}),
        (0, {"count": {"min": 0, "max": 0}}),
        ({"name": "A100,H100", "count": 2, "total_memory": "160GB.."}, {"name": ["A100", "H100"]}),
        ({"compute_capability": "7.5"}, {"compute_capability": "7.5"}),
        ({"compute_capability": 7.5}, {"compute_capability": "7.5"}),
    ],
)
def test_gpus(text: object, wanted: dict[str, Any]) -> None:
    gpu = resources(gpu=text).gpu
    assert gpu is not None
    dumped = gpu.model_dump(mode="json")
    assert {key: dumped[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    "text",
    ["A100:H100", "2:4", "A100::2", "", "A100,,H100", "8G", "24GB:80GB", {"compute_capability": 8}, {"nam": "A100"}],
)
def test_what_is_no_gpu(text: object) -> None:
    with pytest.raises(ValidationError):
        resources(gpu=text)


def test_defaults_and_what_was_asked_for() -> None:
    nothing = Resources()
    assert (nothing.cpu.count.min, nothing.memory.min, nothing.disk.size.min, nothing.gpu) == (2, 8, 100, None)
    assert nothing.model_fields_set == set()
    asked = resources(memory="8GB..", disk="50GB", shm_size="16GB")
    assert asked.model_fields_set == {"memory", "disk", "shm_size"}
    assert asked.disk.size.model_dump() == {"min": 50, "max": 50}
    again = Resources.model_validate(asked.model_dump(mode="json", exclude_unset=True))
    assert again.model_fields_set == asked.model_fields_set


@given(SIZES, SIZES, SIZES, st.sampled_from(["A100", "H100,A100", "amd:MI300X"]))
def test_a_dump_is_read_as_the_same(low: int, more: int, gpus: int, name: str) -> None:
    first = resources(cpu=f"{low}..{low + more}", memory=f"{low}MB..", gpu=f"{name}:{gpus}", disk={"size": f"..{more}TB"})
    assert Resources.model_validate(first.model_dump(mode="json")) == first


@pytest.mark.parametrize(
    ("text", "seconds"), [(90, 90), ("90", 90), ("90s", 90), ("5 m", 300), ("2h", 7200), ("1d", 86400), ("1w", 604800)]
)
def test_durations(text: object, seconds: int) -> None:
    assert TypeAdapter(Duration).validate_python(text) == seconds


@pytest.mark.parametrize("text", ["1h30m", "1.5h", "-1s", -1, "", "h", 1.5, True, 10**30, None])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Duration).validate_python(text)


@pytest.mark.parametrize(("text", "limit"), [("off", "off"), (False, "off"), (True, None), (None, None), ("1m", 60)])
def test_durations_that_can_be_off(text: object, limit: object) -> None:
    assert TypeAdapter(DurationOrOff).validate_python(text) == limit
    assert TypeAdapter(IdleDuration).validate_python(text) == limit


def test_minus_one_is_off_for_idle_durations_only() -> None:
    assert TypeAdapter(IdleDuration).validate_python(-1) == "off"
    with pytest.raises(ValidationError):
        TypeAdapter(DurationOrOff).validate_python(-1)
