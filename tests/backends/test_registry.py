"""The registry of backends, the collection of their offers, and the contract that `local` keeps."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dstack_jupyter.backends import overview, registry
from dstack_jupyter.backends.base import Feed
from dstack_jupyter.backends.collect import collect
from dstack_jupyter.backends.local.compute import LocalBackend, columns
from dstack_jupyter.machines.facts import HostFacts
from dstack_jupyter.machines.gpu_tools import GPUFacts
from dstack_jupyter.models.errors import BackendError, BackendNotAvailable, NotFound
from dstack_jupyter.models.offers import OfferView
from dstack_jupyter.models.resources import Resources
from dstack_jupyter.offers.requirements import Requirements

BUILT = ["local", "ssh", "amddevcloud", "digitalocean"]
PAGE = {
    "vm": [
        "aws",
        "azure",
        "gcp",
        "lambda",
        "nebius",
        "vultr",
        "cudo",
        "oci",
        "datacrunch",
        "amddevcloud",
        "digitalocean",
    ]
    + ["hotaisle", "cloudrift"],
    "container": ["kubernetes", "runpod", "vastai"],
    "on-prem": ["ssh"],
    "marketplace": ["dstack"],
    "local": ["local"],
}


class Broken:
    """A backend of a program's own, whose vendor refuses."""

    made = 0
    feed = Feed(patience=5.0)

    def account(self) -> str:
        return ""

    def __init__(self) -> None:
        type(self).made += 1

    def offers(self) -> dict[str, list[Any]]:
        raise BackendError("the key is not valid", hint="make a new one")

    def create_instance(self, identity: str, offer: OfferView) -> dict[str, Any]:
        raise BackendError("the key is not valid")

    def terminate_instance(self, identity: str, data: dict[str, Any]) -> None:
        raise BackendError("the key is not valid")


pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def broken() -> Iterator[str]:
    module = types.ModuleType("a_program_of_ones_own")
    module.Broken = Broken  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    registry.register("broken", registry.Entry("Broken", "vm", f"{module.__name__}:Broken"))
    yield "broken"
    registry.unregister("broken")
    del sys.modules[module.__name__]


def test_all_names_of_the_page_are_known_with_their_kind() -> None:
    views = {view.backend: view for view in overview.views()}
    assert {name: view.kind for name, view in views.items()} == {name: kind for kind, names in PAGE.items() for name in names}
    assert [name for name, view in views.items() if view.status in ("ready", "not configured")] == BUILT
    assert all(view.message for view in views.values())


@pytest.mark.parametrize("name", [name for names in PAGE.values() for name in names if name not in BUILT] + ["verda"])
def test_those_not_built_answer_so(name: str) -> None:
    with pytest.raises(BackendNotAvailable, match="not available yet"):
        registry.load(name)


def test_where_prices_are_from_and_how_old_they_are() -> None:
    views = {view.backend: view for view in overview.views()}
    assert views["aws"].price_source.startswith("list prices of 20")
    assert views["aws"].price_age_days is not None and views["aws"].price_age_days > 0
    assert (views["local"].price_source, views["local"].price_age_days) == ("no price: machines of your own", None)
    assert (views["oci"].price_source, views["oci"].price_age_days) == ("", None)


def test_an_unknown_name_suggests_a_near_one() -> None:
    with pytest.raises(NotFound) as caught:
        registry.load("runpods")
    assert "runpod" in caught.value.hint
    with pytest.raises(NotFound):
        collect(Requirements(Resources(), backends=("awss",)))


def test_a_missing_extra_gives_the_line_to_install() -> None:
    registry.register("extra", registry.Entry("Extra", "vm", "no_such_vendor_sdk.compute:Backend", extra="extra"))
    try:
        with pytest.raises(BackendNotAvailable) as caught:
            registry.load("extra")
        assert caught.value.hint == 'pip install "dstack-jupyter[extra]"'
    finally:
        registry.unregister("extra")


def test_a_backend_is_made_once_however_many_threads_ask(broken: str) -> None:
    Broken.made = 0
    threads = [threading.Thread(target=registry.load, args=(broken,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Broken.made == 1


def test_a_backend_that_fails_says_why_beside_the_others(broken: str) -> None:
    found = collect(Requirements(Resources()))
    assert found.rows.text["backend"].values() == ["local"]
    reasons = {line.backend: (line.reason, line.hint) for line in found.missing}
    assert reasons[broken] == ("the key is not valid", "make a new one")
    assert reasons["aws"][0] == "not available yet"


def test_only_the_backends_asked_for_are_asked() -> None:
    found = collect(Requirements(Resources(), backends=("verda", "datacrunch", "local", "local")))
    assert found.rows.text["backend"].values() == ["local"]
    assert [line.backend for line in found.missing] == ["datacrunch"]


def test_a_filter_that_leaves_nothing_is_named_with_near_gpus() -> None:
    found = collect(Requirements(Resources.model_validate({"gpu": "A1000"}), backends=("local",)))
    (line,) = found.missing
    assert (line.backend, line.reason) == ("local", "none of its offers passes `gpu name`")
    assert "A100" in line.hint


def test_the_offer_of_this_machine(tmp_path: Path) -> None:
    found = collect(Requirements(Resources(), backends=("local",)))
    (offer,) = found.rows.views()
    assert (offer.backend, offer.region, offer.instance_type, offer.price) == ("local", "local", "local", 0)
    assert (offer.source, offer.availability) == ("host", "available")
    assert offer.cpus > 0 and offer.memory_gb > 0


def test_local_creates_and_terminates_nothing_however_often() -> None:
    backend = LocalBackend()
    (offer,) = collect(Requirements(Resources(), backends=("local",))).rows.views()
    for _ in range(2):
        assert backend.create_instance("dj-x-y", offer) == {}
    for _ in range(2):
        backend.terminate_instance("dj-x-y", {})


def facts(*gpus: GPUFacts, notes: tuple[str, ...] = ()) -> HostFacts:
    return HostFacts(cpus=4, memory_gb=16, disk_gb=100, disk_free_gb=50, arch="x86", gpus=gpus, notes=notes)


def test_gpus_are_offered_as_jobs_count_them() -> None:
    t4, a100 = GPUFacts("nvidia", "T4", 16), GPUFacts("nvidia", "A100", 80)
    same = columns(facts(a100, a100))
    assert (same["gpu_name"], same["gpu_count"], same["gpu_memory_gb"], same["reason"]) == (["A100"], [2], [80], [""])
    mixed = columns(facts(t4, replace(a100, index=1), replace(a100, index=2)))
    assert (mixed["gpu_name"], mixed["gpu_count"], mixed["devices"]) == (["A100"], [2], ["1,2"])
    assert mixed["reason"] == ["not offered, since an offer is of one kind: T4 (device 0)"]


def test_an_offer_knows_its_devices_by_number() -> None:
    """What a job is given (CUDA_VISIBLE_DEVICES) are these numbers, not the first ones."""
    (offer,) = (OfferView(backend="local", instance_type="local", cpus=4, memory_gb=16, price=0.0, gpu_count=2, devices=given)
                for given in ["1,4"])  # fmt: skip
    assert offer.device_numbers == [1, 4]
    assert offer.model_copy(update={"devices": ""}).device_numbers == [0, 1]


def test_a_tool_that_failed_is_told_with_the_offer() -> None:
    none = columns(facts(notes=("nvidia-smi failed with exit code 9",)))
    assert (none["gpu_count"], none["gpu_name"], none["gpu_vendor"]) == ([0], [""], [""])
    assert none["reason"] == ["nvidia-smi failed with exit code 9"]
    assert none["disk_gb"] == [50]
