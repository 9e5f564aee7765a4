"""Offers, the key and its scopes, as `%dstack` shows them: the unchanged client, real HTTP, a fake held to the published file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from dstack_jupyter import api
from dstack_jupyter.backends import live, overview
from dstack_jupyter.backends.config.account import account
from dstack_jupyter.models.errors import BackendUnreachable, ConfigurationError, PermissionMissing
from dstack_jupyter.models.home import Home
from tests.clouds.catalog import PAGE_SCOPES
from tests.clouds.fixtures import TOKEN, Site, configure
from tests.magics.test_configuring import shell

Make = Callable[..., Site]


def rows(site: Site, **columns: Any) -> list[dict[str, Any]]:
    found = site.backend.offers()
    everything = [dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True)]
    return [row for row in everything if all(row[name] == value for name, value in columns.items())]


# Offers.


def test_sizes_are_offers_in_each_region_that_has_them(site: Site) -> None:
    (one, two) = rows(site, instance_type="gpu-h100x1-80gb")
    assert {one["region"], two["region"]} == {"nyc2", "tor1"}
    assert (one["gpu_vendor"], one["gpu_name"], one["gpu_count"], one["gpu_memory_gb"]) == ("nvidia", "H100", 1, 80.0)
    assert (one["cpus"], one["memory_gb"], one["disk_gb"], one["price"]) == (20.0, 240.0, 720.0, 3.39)
    assert (one["spot"], one["availability"], one["source"]) == (False, "available", "live")


@pytest.mark.parametrize(
    ("slug", "name", "count", "memory"),
    [
        ("gpu-h100x8-640gb", "H100", 8, 80.0),
        ("gpu-l40sx1-48gb", "L40S", 1, 48.0),
        ("gpu-4000adax1-20gb", "RTX4000Ada", 1, 20.0),
        ("gpu-mi300x1-192gb", "MI300X", 1, 192.0),
        ("s-4vcpu-8gb", "", 0, 0.0),
    ],
)
def test_vram_may_be_of_one_gpu_or_of_all(site: Site, slug: str, name: str, count: int, memory: float) -> None:
    row = rows(site, instance_type=slug)[0]
    assert (row["gpu_name"], row["gpu_count"], row["gpu_memory_gb"]) == (name, count, memory)


def test_a_gpu_that_no_region_has_is_shown_as_such(site: Site) -> None:
    """The public host lists AMD's sizes with no region, and answers 422 to a create."""
    (row,) = rows(site, gpu_name="MI300X")
    assert (row["region"], row["availability"], row["reason"]) == ("", "not_available", "no region has it now")


def test_a_region_that_takes_no_new_machines(site: Site) -> None:
    (row,) = rows(site, region="sfo1")
    assert (row["instance_type"], row["availability"]) == ("s-4vcpu-8gb", "not_available")


def test_amd_sells_what_it_has_at_its_own_host(make_site: Make) -> None:
    site = make_site("amddevcloud")
    found = rows(site)
    assert [(row["instance_type"], row["gpu_count"], row["gpu_memory_gb"], row["region"], row["price"]) for row in found] == [
        ("gpu-mi300x1-192gb-devcloud", 1, 192.0, "atl1", 1.99),
        ("gpu-mi300x8-1536gb-devcloud", 8, 192.0, "atl1", 15.92),
    ]


def test_regions_of_the_entry_narrow_them(make_site: Make) -> None:
    assert {row["region"] for row in rows(make_site(regions=["nyc2"]))} == {"nyc2"}


def test_dstack_offers_shows_them(site: Site) -> None:
    done = shell("offers", "-b", "digitalocean", "--gpu", "H100:80GB:1", "--refresh", "--json")
    assert done.returncode == 0, done.stderr
    assert "gpu-h100x1-80gb" in done.stdout and "3.39" in done.stdout
    assert TOKEN not in done.stdout + done.stderr


def test_dstack_offers_says_why_there_are_none(site: Site) -> None:
    site.face.tokens.clear()
    done = shell("offers", "-b", "digitalocean", "--gpu", "1", "--refresh")
    assert "does not know this key" in done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr


# The key and its scopes.


def by_name(name: str) -> dict[str, Any]:
    return {row.permission: row for row in overview.rights(name)}


def test_every_scope_of_the_page_is_there(site: Site) -> None:
    found = by_name("digitalocean")
    assert set(found) - {"log in"} == PAGE_SCOPES == {each.name for each in account("digitalocean").permissions}
    assert found["log in"].hint == "ada@example.com, team Analytical Engines, at most 25 machines"
    # Nothing that the vendor publishes needs this one, so nothing can tell.
    assert {name for name, row in found.items() if row.status != "granted"} == {"droplet:admin"}
    assert found["droplet:admin"].status == "unknown"


@pytest.mark.parametrize("scope", sorted(PAGE_SCOPES - {"droplet:admin"}))
def test_each_scope_is_told_apart(site: Site, scope: str) -> None:
    site.scopes(scope)
    found = by_name("digitalocean")
    # The list of sizes needs both, as the vendor publishes it.
    also = {"sizes:read"} if scope == "regions:read" else set()
    assert {name for name, row in found.items() if row.status == "missing"} == {scope} | also
    noun, _, verb = scope.partition(":")
    assert f"{noun}: {verb}" in found[scope].hint


def test_the_required_scopes_are_enough_and_each_is_needed(site: Site) -> None:
    required = {each.name for each in account("digitalocean").permissions if each.level == "required"}

    def journey() -> None:
        site.backend.offers()
        made = site.account.create(site.order())
        assert site.account.find(made.identity)
        site.account.terminate(made.data)
        site.face.keys.clear()

    site.scopes(*(PAGE_SCOPES - required))
    journey()
    for scope in required:
        site.scopes(*(PAGE_SCOPES - required), scope)
        with pytest.raises(PermissionMissing) as caught:
            journey()
        assert caught.value.permission in (scope, "sizes:read")  # the list of sizes needs both of its scopes
        site.face.keys.clear()
        site.cloud.empty()


def test_a_look_at_the_rights_changes_nothing(site: Site) -> None:
    machine = site.cloud.create(name="web-1", size="s-4vcpu-8gb", region="tor1", image="ubuntu-24-04-x64", user_data="")
    site.face.add_key("ada", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5Wf6c0zY4Yb1yY8z7m6Z9b")
    before = json.dumps([site.face.keys, site.face.projects], default=str), machine.name
    by_name("digitalocean")
    assert (json.dumps([site.face.keys, site.face.projects], default=str), machine.name) == before
    assert list(site.cloud.machines.values()) == [machine]


def test_a_key_that_is_not_known(site: Site) -> None:
    site.face.tokens.clear()
    found = by_name("digitalocean")
    assert (found["log in"].status, found["droplet:create"].status) == ("missing", "unknown")
    assert "does not know this key" in found["log in"].hint and TOKEN not in found["log in"].hint
    assert len(site.face.requests) == 1  # and it is not tried fifteen times more


def test_an_account_that_is_locked(site: Site) -> None:
    site.cloud.faults.arm("account locked", times=1)
    found = by_name("digitalocean")
    assert (found["log in"].status, "unpaid bill" in found["log in"].hint) == ("missing", True)


@pytest.mark.parametrize(("name", "status"), [("research", "granted"), ("reserach", "missing")])
def test_the_project_is_looked_up(make_site: Make, name: str, status: str) -> None:
    site = make_site(project_name=name)
    site.face.add_project("research")
    row = by_name("digitalocean")[f"project {name}"]
    assert row.status == status
    assert status == "granted" or "it has: first-project, research" in row.hint


def test_a_vendor_that_stumbles_is_unknown_and_not_missing(site: Site) -> None:
    site.cloud.faults.arm("answers 500", times=float("inf"))
    with pytest.raises(Exception, match="Server was unable"):
        overview.rights("digitalocean")
    site.cloud.faults.disarm("answers 500")
    site.cloud.faults.arm("rate limit", 17, times=1)
    with pytest.raises(Exception, match="too many requests"):
        overview.rights("digitalocean")


def test_nobody_who_listens(site: Site) -> None:
    site.server.close()
    with pytest.raises(BackendUnreachable):
        overview.rights("digitalocean")


def test_dstack_backends_tells_what_the_last_check_found(site: Site) -> None:
    site.scopes("ssh_key:create")
    first = shell("backends", "digitalocean", "--json")
    assert json.loads(first.stdout)[0]["permissions"] == "unknown"
    done = shell("backends", "check", "digitalocean")
    assert done.returncode == 0, done.stderr
    assert "ada@example.com, team Analytical Engines" in done.stdout
    assert "ssh_key: create ticked too" in done.stdout
    asked = len(site.face.requests)
    row = json.loads(shell("backends", "digitalocean", "--json").stdout)[0]
    assert row["identity"].startswith("ada@example.com, team Analytical Engines")
    assert (row["credentials"], row["status"]) == ("valid", "in trouble")
    assert row["permissions"].startswith("missing: ssh_key:create (")
    assert row["last_error"] == "ssh_key:create: missing"
    assert all("/v2/account" not in url for _, url, _ in site.face.requests[asked:]), "a list must not wait for a check"
    assert TOKEN not in done.stdout + done.stderr + first.stdout


def test_a_key_that_is_not_known_makes_no_rights_complete(site: Site) -> None:
    site.face.tokens.clear()
    site.backend.check()
    (view,) = (view for view in overview.views() if view.backend == "digitalocean")
    assert (view.credentials, view.status) == ("invalid", "in trouble")
    assert view.permissions.startswith("unknown: droplet:create, ")


def test_a_backend_that_is_ready_says_so_with_its_regions(site: Site) -> None:
    site.backend.check()
    live.ask(["digitalocean"], 20)
    (view,) = (view for view in overview.views() if view.backend == "digitalocean")
    assert (view.status, view.credentials, view.price_source) == ("ready", "valid", "the vendor's API")
    assert view.permissions.startswith("complete (") and view.regions == ["ams3", "nyc1", "nyc2", "sfo1", "tor1"]
    assert view.message == "DigitalOcean: ready"


def test_what_another_key_had_is_not_what_this_one_has(site: Site) -> None:
    site.backend.check()
    assert site.backend.checked() is not None
    site.account.rest.close()
    configure("digitalocean", token="dop_v1_another_token_0000")
    assert site.backend.checked() is None


def test_without_an_entry_it_says_how_to_make_one(home: Home) -> None:
    (view,) = (view for view in overview.views() if view.backend == "digitalocean")
    assert (view.status, view.hint) == ("not configured", "`%dstack backends help digitalocean`")
    frame = api.offers(backends=("digitalocean",))
    assert "not configured" in str(frame.attrs["missing"])


def test_an_entry_with_a_fault_is_not_a_missing_one(site: Site) -> None:
    configure("digitalocean", project="typo")
    with pytest.raises(ConfigurationError, match="project"):
        site.backend.cloud()


def test_a_price_is_asked_about_before_anything_is_made(site: Site) -> None:
    shell("offers", "-b", "digitalocean", "--refresh")
    body = "type: task\ncommands: [nvidia-smi]\nresources: {gpu: H100}\nbackends: [digitalocean]\n"
    done = shell("apply", "-n", "train", "-f", "-", stdin=body)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "$3.39" in said and "gpu-h100x1-80gb" in said
    assert not site.creates()
