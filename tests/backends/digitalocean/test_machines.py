"""Machines at DigitalOcean and AMD Developer Cloud: each quirk of the vendor by its name. What every vendor must do is in
``tests/clouds/test_seam.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from dstack_jupyter.models.errors import (
    BackendError,
    Busy,
    NoCapacity,
    NotAtVendor,
    PermissionMissing,
    RateLimited,
    Refused,
)
from tests.clouds.fixtures import INSTALLATION, Site

Make = Callable[..., Site]
FOREVER = float("inf")


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
    made = [site.account.create(site.order(number)) for number in (1, 2)]
    assert {each.address + each.internal_address for each in made} == {""}
    site.cloud.clock.advance(60)
    for each in made:
        seen = site.account.get(each.data)
        assert seen.address.startswith("198.18.") and seen.internal_address.startswith("10.")


def test_a_status_that_nobody_knows_is_no_error(site: Site) -> None:
    made = site.account.create(site.order())
    site.cloud.faults.arm("status", "hibernated", times=1)
    seen = site.account.get(made.data)
    assert (seen.status, seen.raw_status) == ("unknown", "hibernated")
    site.face.breaches.clear()  # the file knows four words


def test_a_powered_off_droplet_goes_on_costing(site: Site) -> None:
    made = site.account.create(site.order())
    site.cloud.machines[made.data["id"]].status = "stopped"
    assert site.account.get(made.data).status == "stopped"
    assert site.account.traits.stopped_is_billed


def test_a_droplet_that_is_off_is_started_again_and_one_that_is_on_is_left_alone(site: Site) -> None:
    """The vendor answers 422 for both what cannot be and what is done already."""
    made = site.account.create(site.order())
    machine = site.cloud.machines[made.data["id"]]
    with pytest.raises(Busy):
        site.account.start(made.data)  # it is being made
    site.cloud.clock.advance(60)
    site.account.start(made.data)
    assert site.account.get(made.data).status == "running"
    machine.status = "stopped"
    site.account.start(made.data)
    assert site.account.get(made.data).status == "running"
    site.account.terminate(made.data)
    with pytest.raises(NotAtVendor):
        site.account.start(made.data)


# Keys.


def test_without_a_key_object_the_vendor_mails_a_password(site: Site) -> None:
    site.account.create(site.order())
    assert not next(iter(site.cloud.machines.values())).more["mailed a password"]


def test_one_key_object_serves_the_installation(site: Site) -> None:
    first, second = site.order(1), site.order(2)
    assert first.resources == second.resources and first.resources[0].ours
    assert first.resources[0].identity == f"dj-{INSTALLATION[:8]}-key"
    assert site.account.list_attached(INSTALLATION) == list(first.resources)
    site.account.detach(first.resources[0])
    site.account.detach(first.resources[0])  # gone already is fine
    assert site.account.list_attached(INSTALLATION) == []


def test_a_key_of_the_same_material_is_used_under_its_own_name_and_never_removed(site: Site) -> None:
    for number in range(230):  # more than a page
        site.face.add_key(f"key {number}", f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{number:040d}")
    order = site.order()
    site.account.detach(order.resources[0])
    theirs = site.face.add_key("ada's laptop", f"{order.login_key} ada@laptop")
    (resource,) = site.order().resources
    assert (resource.id, resource.ours) == (str(theirs["id"]), False)
    site.account.detach(resource)
    assert theirs["id"] in site.face.keys


def test_a_key_that_somebody_adds_at_the_same_moment_is_found(site: Site) -> None:
    site.cloud.faults.arm("key race")
    (resource,) = site.order().resources
    assert resource.ours is False and len(site.face.keys) == 1


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


def test_a_scope_that_is_missing_is_named(site: Site) -> None:
    order = site.order()
    site.scopes("droplet:create")
    with pytest.raises(PermissionMissing, match="droplet:create") as caught:
        site.account.create(order)
    assert caught.value.permission == "droplet:create"


def test_never_more_calls_than_the_published_limit(site: Site) -> None:
    for _ in range(248):
        with site.account.rest.pace.call():
            pass
    for _ in range(2):
        site.account.rest.get("/v2/account", permission="account:read")
    with pytest.raises(RateLimited, match="its limit is reached"):
        site.account.rest.get("/v2/account", permission="account:read")
    assert len(site.face.requests) == 2
