"""Machines at DigitalOcean: the seam's promises, and each quirk of the vendor by its name. Real HTTP, a fake held to the file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from dstack_jupyter.models.errors import (
    BackendError,
    BackendUnreachable,
    BadCredentials,
    Busy,
    NoBalance,
    NoCapacity,
    NoQuota,
    PermissionMissing,
    RateLimited,
    Refused,
    UnknownOutcome,
)
from tests.clouds.fixtures import INSTALLATION, TOKEN, Site, configure

Make = Callable[..., Site]
FOREVER = float("inf")


def test_a_machine_from_order_to_gone(site: Site) -> None:
    order = site.order()
    made = site.account.create(order)
    assert (made.identity, made.word, made.address) == (order.identity, "starting", "")
    site.cloud.clock.advance(6)
    assert site.account.get(made.data).address.startswith("198.18.")
    site.cloud.clock.advance(60)
    seen = site.account.get(made.data)
    assert (seen.word, seen.said, seen.region, seen.user, seen.port) == ("running", "active", "tor1", "root", 22)
    assert seen.internal_address.startswith("10.") and str(made.data["id"]) in seen.console
    assert site.account.list_all(INSTALLATION) == [seen]
    site.account.terminate(made.data)
    assert site.account.get(made.data) is None
    assert site.account.list_all(INSTALLATION) == []
    site.account.terminate(made.data)  # gone already is fine


def test_amd_developer_cloud_is_the_same_api_at_another_host(make_site: Make) -> None:
    site = make_site("amddevcloud")
    order = site.order(
        region="atl1", instance_type="gpu-mi300x1-192gb-devcloud", gpu_vendor="amd", gpu_name="MI300X", gpu_count=1
    )
    made = site.account.create(order)
    assert site.creates()[0]["image"] == "gpu-amd-base"
    assert [each.data for each in site.account.list_all(INSTALLATION)] == [made.data]


@pytest.mark.parametrize(
    ("instance_type", "region", "vendor", "count", "image"),
    [
        ("s-4vcpu-8gb", "tor1", "", 0, "ubuntu-24-04-x64"),
        ("gpu-h100x1-80gb", "nyc2", "nvidia", 1, "gpu-h100x1-base"),
        ("gpu-h100x8-640gb", "nyc2", "nvidia", 8, "gpu-h100x8-base"),
    ],
)
def test_the_image_has_the_drivers_of_the_gpus(
    site: Site, instance_type: str, region: str, vendor: str, count: int, image: str
) -> None:
    site.account.create(site.order(instance_type=instance_type, region=region, gpu_vendor=vendor, gpu_count=count))
    assert site.creates()[0]["image"] == image


def test_gpu_droplets_are_in_no_list_that_does_not_ask_for_them(site: Site) -> None:
    cpu = site.account.create(site.order(1))
    gpu = site.account.create(site.order(2, instance_type="gpu-h100x1-80gb", region="nyc2", gpu_vendor="nvidia", gpu_count=1))
    assert [each.data for each in site.account.list_all(INSTALLATION)] == [cpu.data, gpu.data]
    assert [each.data for each in site.account.find(gpu.identity)] == [gpu.data]


def test_a_list_has_pages(site: Site) -> None:
    site.cloud.quota = 1000
    common = {"size": "s-4vcpu-8gb", "region": "tor1", "image": "ubuntu-24-04-x64", "user_data": ""}
    for number in range(450):
        site.cloud.create(name=f"dj-{INSTALLATION[:8]}-{number:012x}" if number % 9 < 5 else f"web-{number}", **common)
    assert len(site.account.list_all(INSTALLATION)) == 250


def test_a_list_that_lacks_entries_is_an_error_and_no_answer(site: Site) -> None:
    site.account.create(site.order())
    site.cloud.faults.arm("list is cut", times=FOREVER)
    with pytest.raises(BackendError, match="changes while it is read"):
        site.account.list_all(INSTALLATION)
    with pytest.raises(BackendError, match="changes while it is read"):
        site.account.find(site.order().identity)
    site.cloud.faults.arm("list is cut", times=1)  # a machine went between two pages: read again
    assert len(site.account.list_all(INSTALLATION)) == 1


def test_a_list_that_fails_is_an_error_and_no_answer(site: Site) -> None:
    site.account.create(site.order())
    site.cloud.faults.arm("answers 500")
    with pytest.raises(BackendError) as caught:
        site.account.list_all(INSTALLATION)
    assert not caught.value.nothing_made


def test_other_installations_and_names_without_case_are_not_ours(site: Site) -> None:
    order = site.order()
    shared = {"size": "s-4vcpu-8gb", "region": "tor1", "image": "ubuntu-24-04-x64", "user_data": ""}
    for name in (f"dj-ffffffff-{1:012x}", order.identity.upper(), "web-1"):
        site.cloud.create(name=name, **shared)
    assert site.account.list_all(INSTALLATION) == []
    assert site.account.find(order.identity) == []  # the vendor compares names without case


# What a create may come to.


@pytest.mark.parametrize("fault", ["made, answer lost", "made, answers 500", "made, answers nonsense"])
def test_a_create_without_a_clear_answer_is_unknown_and_found_by_its_name(site: Site, fault: str) -> None:
    order = site.order()
    site.cloud.faults.arm(fault)
    with pytest.raises(UnknownOutcome):
        site.account.create(order)
    assert len(site.creates()) == 1
    found = site.account.find(order.identity)
    assert len(found) == 1
    assert site.account.create(order) == found[0]  # again: adopted, not made
    assert len(site.creates()) == 1
    assert len(site.cloud.machines) == 1


@pytest.mark.parametrize("fault", ["not made, connection cut", "not made, answers 500"])
def test_a_create_that_may_have_failed_is_unknown_too(site: Site, fault: str) -> None:
    order = site.order()
    site.cloud.faults.arm(fault)
    with pytest.raises(UnknownOutcome) as caught:
        site.account.create(order)
    assert not caught.value.nothing_made
    assert len(site.creates()) == 1
    assert site.account.find(order.identity) == []


def test_a_create_that_times_out_is_unknown(site: Site) -> None:
    order = site.order()
    site.account.rest.answer_within = 0.3
    site.account.rest.close()
    gate = threading.Event()
    site.cloud.faults.arm("answer waits", gate)
    try:
        with pytest.raises(UnknownOutcome, match="gave no answer"):
            site.account.create(order)
    finally:
        gate.set()
    assert len(site.creates()) == 1


def test_nobody_who_listens_means_that_nothing_was_sent(site: Site) -> None:
    order = site.order()
    site.account.rest.close()
    site.server.close()
    with pytest.raises(BackendUnreachable) as caught:
        site.account.create(order)
    assert caught.value.nothing_made


@pytest.mark.parametrize(("fault", "error"), [("no capacity", NoCapacity), ("no quota", NoQuota), ("no balance", NoBalance)])
def test_422_is_told_apart_by_its_text(site: Site, fault: str, error: type[BackendError]) -> None:
    site.cloud.faults.arm(fault)
    with pytest.raises(error) as caught:
        site.account.create(site.order())
    assert caught.value.nothing_made
    assert len(site.creates()) == 1


@pytest.mark.parametrize(("offer", "error"), [
    ({"region": "nyc2"}, NoCapacity),
    ({"region": "sfo1"}, NoCapacity),
    ({"instance_type": "s-8vcpu-1tb"}, Refused),
])  # fmt: skip
def test_a_wrong_region_is_no_capacity_and_a_wrong_size_a_plain_no(
    site: Site, offer: dict[str, str], error: type[BackendError]
) -> None:
    with pytest.raises(error):
        site.account.create(site.order(**offer))


def test_names_may_repeat_so_the_oldest_of_an_identity_is_kept(site: Site) -> None:
    order = site.order()
    site.cloud.faults.arm("made twice")
    site.account.create(order)
    first, second = site.account.find(order.identity)
    assert first.data["id"] < second.data["id"] and first.created_at <= second.created_at


def test_user_data_has_64_kib(site: Site) -> None:
    order = site.order()
    with pytest.raises(Refused, match="64 KiB"):
        site.account.create(replace(order, user_data="#cloud-config\n#" + "é" * 33_000))
    assert not site.creates()
    site.account.create(replace(order, user_data="#" * 65_536))


def test_no_tags_are_sent_since_the_pages_scopes_have_none(site: Site) -> None:
    site.account.create(replace(site.order(), tags={"dj-installation": INSTALLATION}))
    assert "tags" not in site.creates()[0]


def test_a_fresh_droplet_has_no_address_and_the_public_one_is_not_always_first(site: Site) -> None:
    made = site.account.create(site.order())
    assert made.address == made.internal_address == ""
    site.cloud.clock.advance(60)
    assert site.account.get(made.data).address.startswith("198.18.")


def test_a_status_that_nobody_knows_is_no_error(site: Site) -> None:
    made = site.account.create(site.order())
    site.cloud.faults.arm("status", "hibernated", times=1)
    seen = site.account.get(made.data)
    assert (seen.word, seen.said) == ("unknown", "hibernated")
    site.face.breaches.clear()  # the file knows four words


def test_a_powered_off_droplet_goes_on_costing(site: Site) -> None:
    made = site.account.create(site.order())
    site.cloud.machines[made.data["id"]].word = "stopped"
    assert site.account.get(made.data).word == "stopped"
    assert site.account.traits.stopped_is_billed


def test_just_after_the_create_not_found_proves_nothing(site: Site) -> None:
    made = site.account.create(site.order())
    site.cloud.faults.arm("get lags", 600.0)
    assert site.account.get(made.data) is None
    assert site.account.get(made.data) is not None
    assert site.account.traits.absent_after >= 600


def test_lists_lag_behind_a_create(site: Site) -> None:
    order = site.order()
    made = site.account.create(order)
    site.cloud.faults.arm("lists lag", 30.0, times=2)
    assert site.account.find(order.identity) == []
    assert [each.data for each in site.account.find(order.identity)] == [made.data]


# Ending.


def test_a_delete_that_says_not_found_is_no_proof(site: Site) -> None:
    made = site.account.create(site.order())
    site.cloud.faults.arm("delete lies")
    site.account.terminate(made.data)
    assert site.account.get(made.data) is not None  # the engine asks, and ends it again


def test_one_delete_is_sent_and_a_second_says_that_it_is_under_way(site: Site) -> None:
    made = site.account.create(site.order())
    site.cloud.faults.arm("delete is slow", 30.0)
    site.account.terminate(made.data)
    assert site.account.get(made.data) is not None
    with pytest.raises(Busy):
        site.account.terminate(made.data)
    site.cloud.clock.advance(31)
    assert site.account.get(made.data) is None


def test_a_delete_that_fails_is_not_repeated_here(site: Site) -> None:
    made = site.account.create(site.order())
    site.cloud.faults.arm("delete fails")
    with pytest.raises(BackendError):
        site.account.terminate(made.data)
    deletes = [url for method, url, _ in site.face.requests if method == "DELETE"]
    assert deletes == [f"/v2/droplets/{made.data['id']}"]
    assert site.account.get(made.data) is not None


# Keys.


def test_without_a_key_object_the_vendor_mails_a_password(site: Site) -> None:
    site.account.create(site.order())
    assert not next(iter(site.cloud.machines.values())).more["mailed a password"]


def test_one_key_object_serves_the_installation(site: Site) -> None:
    first, second = site.order(1), site.order(2)
    assert first.things == second.things and first.things[0].ours
    assert first.things[0].identity == f"dj-{INSTALLATION[:8]}-key"
    assert site.account.list_attached(INSTALLATION) == list(first.things)
    site.account.detach(first.things[0])
    site.account.detach(first.things[0])  # gone already is fine
    assert site.account.list_attached(INSTALLATION) == []


def test_a_key_of_the_same_material_is_used_under_its_own_name_and_never_removed(site: Site) -> None:
    for number in range(230):  # more than a page
        site.face.add_key(f"key {number}", f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{number:040d}")
    order = site.order()
    site.account.detach(order.things[0])
    theirs = site.face.add_key("ada's laptop", f"{order.login_key} ada@laptop")
    (thing,) = site.order().things
    assert (thing.id, thing.ours) == (str(theirs["id"]), False)
    site.account.detach(thing)
    assert theirs["id"] in site.face.keys


def test_a_key_that_somebody_adds_at_the_same_moment_is_found(site: Site) -> None:
    site.cloud.faults.arm("key race")
    (thing,) = site.order().things
    assert thing.ours is False and len(site.face.keys) == 1


# The project.


def test_a_droplet_is_born_in_its_project(make_site: Make) -> None:
    """Given to it afterwards it needs a scope that the page does not list, and between the two calls it may be lost."""
    site = make_site(project_name="research")
    wanted = site.face.add_project("research")
    site.account.create(site.order())
    assert next(iter(site.cloud.machines.values())).project == wanted


def test_without_a_project_name_the_accounts_default_is_used(site: Site) -> None:
    site.account.create(site.order())
    assert "project_id" not in site.creates()[0]


def test_an_unknown_project_is_refused_before_anything_is_made(make_site: Make) -> None:
    site = make_site(project_name="reserach")
    with pytest.raises(Refused, match="no project 'reserach'"):
        site.account.create(site.order())
    assert not site.creates()


# The key, the host, the pace.


def test_a_key_that_the_vendor_does_not_know(site: Site) -> None:
    order = site.order()
    site.face.tokens.clear()
    with pytest.raises(BadCredentials, match="does not know this key") as caught:
        site.account.create(order)
    assert caught.value.nothing_made and TOKEN not in str(caught.value)


def test_a_scope_that_is_missing_is_named(site: Site) -> None:
    order = site.order()
    site.scopes("droplet:create")
    with pytest.raises(PermissionMissing, match="droplet:create") as caught:
        site.account.create(order)
    assert caught.value.permission == "droplet:create"


def test_a_redirect_is_not_followed_and_the_new_host_is_told(make_site: Make) -> None:
    """AMD's host may have moved: a client that follows sends the key elsewhere, and makes a GET of the POST."""
    site = make_site("amddevcloud")
    order = site.order(region="atl1", instance_type="gpu-mi300x1-192gb-devcloud")
    site.cloud.faults.arm("moved", "api.devcloud.amd.com", times=FOREVER)
    with pytest.raises(Refused, match=r"moved from .* to api\.devcloud\.amd\.com") as caught:
        site.account.create(order)
    assert "DSTACK_JUPYTER_AMDDEVCLOUD_ENDPOINT=https://api.devcloud.amd.com" in caught.value.hint


def test_too_many_requests_pause_everybody_for_as_long_as_the_vendor_says(site: Site) -> None:
    order = site.order()
    site.cloud.faults.arm("rate limit", 17)
    with pytest.raises(RateLimited) as caught:
        site.account.create(order)
    assert caught.value.delay == pytest.approx(17, abs=1)
    seen = len(site.face.requests)
    with pytest.raises(RateLimited) as caught:
        site.account.list_all(INSTALLATION)
    assert 10 < caught.value.delay <= 17
    assert len(site.face.requests) == seen, "a call was made all the same"


def test_never_more_calls_than_the_published_limit(site: Site) -> None:
    for _ in range(248):
        site.account.rest.pace.take()
    for _ in range(2):
        site.account.rest.get("/v2/account", permission="account:read")
    with pytest.raises(RateLimited, match="its limit is reached"):
        site.account.rest.get("/v2/account", permission="account:read")
    assert len(site.face.requests) == 2


def test_a_changed_entry_is_another_account(site: Site) -> None:
    before = site.account
    assert site.account is before
    site.face.tokens["dop_v1_another_token_0000"] = site.face.tokens[TOKEN]
    configure("digitalocean", token="dop_v1_another_token_0000")
    assert site.account is not before
    before.rest.close()
