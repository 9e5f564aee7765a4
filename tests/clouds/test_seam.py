"""The seam's promises, for every vendor that has a fake: real clients over real HTTP."""

from __future__ import annotations

import logging
import threading

import pytest

from dstack_jupyter.models.errors import (
    BackendError,
    BackendUnreachable,
    BadCredentials,
    Busy,
    NoBalance,
    NoCapacity,
    NoQuota,
    RateLimited,
    Refused,
    UnknownOutcome,
)
from tests.clouds.fixtures import INSTALLATION, TOKEN, Site, configure

FOREVER = float("inf")


def test_a_machine_from_order_to_gone(site: Site) -> None:
    """F26 cluster-api#5483."""
    order = site.order()
    made = site.account.create(order)
    assert (made.identity, made.status, made.address) == (order.identity, "starting", "")
    site.cloud.clock.advance(6)
    assert site.account.get(made.data).address.startswith("198.18.")
    site.cloud.clock.advance(60)
    seen = site.account.get(made.data)
    assert (seen.status, seen.region, seen.user, seen.port) == ("running", order.offer.region, "root", 22)
    assert seen.internal_address.startswith("10.") and str(made.data["id"]) in seen.console
    assert site.account.list_all(INSTALLATION) == [seen]
    site.account.terminate(made.data)
    assert site.account.get(made.data) is None
    assert site.account.list_all(INSTALLATION) == []
    site.account.terminate(made.data)  # gone already is fine


def test_a_list_has_pages(site: Site) -> None:
    """F41 libcloud#1120."""
    site.cloud.quota = 1000
    for number in range(450):
        site.stranger(f"dj-{INSTALLATION[:8]}-{number:012x}" if number % 9 < 5 else f"web-{number}")
    assert len(site.account.list_all(INSTALLATION)) == 250


def test_a_list_that_lacks_entries_is_an_error_and_no_answer(site: Site) -> None:
    site.account.create(site.order())
    site.cloud.faults.arm("list is cut", times=FOREVER)
    with pytest.raises(BackendError):
        site.account.list_all(INSTALLATION)
    with pytest.raises(BackendError):
        site.account.find(site.order().identity)
    site.cloud.faults.arm("list is cut", times=1)  # a machine went between two pages: read again
    assert len(site.account.list_all(INSTALLATION)) == 1


def test_a_list_that_fails_is_an_error_and_no_answer(site: Site) -> None:
    site.account.create(site.order())
    site.cloud.faults.arm("answers 500")
    with pytest.raises(BackendError) as caught:
        site.account.list_all(INSTALLATION)
    assert not caught.value.nothing_made


def test_other_installations_and_names_that_only_look_like_ours_are_not_ours(site: Site) -> None:
    """F12 comfyui-mcp#251."""
    order = site.order()
    for name in (f"dj-ffffffff-{1:012x}", order.identity.upper(), "web-1"):
        site.stranger(name)
    assert site.account.list_all(INSTALLATION) == []
    assert site.account.find(order.identity) == []


@pytest.mark.parametrize("fault", ["made, answer lost", "made, answers 500", "made, answers nonsense"])
def test_a_create_without_a_clear_answer_is_unknown_and_found_by_its_name(site: Site, fault: str) -> None:
    """F02 dstack#707, F11 transformerlab-app#2305."""
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
    """F07 terraform-provider-aws#27543."""
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
def test_refusals_are_told_apart(site: Site, fault: str, error: type[BackendError]) -> None:
    site.cloud.faults.arm(fault)
    with pytest.raises(error) as caught:
        site.account.create(site.order())
    assert caught.value.nothing_made
    assert len(site.creates()) == 1


def test_names_may_repeat_so_the_oldest_of_an_identity_is_kept(site: Site) -> None:
    order = site.order()
    site.cloud.faults.arm("made twice")
    site.account.create(order)
    first, second = site.account.find(order.identity)
    assert first.data["id"] < second.data["id"] and first.created_at <= second.created_at


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
    """F33 scrapoxy#32."""
    made = site.account.create(site.order())
    site.cloud.faults.arm("delete fails")
    with pytest.raises(BackendError):
        site.account.terminate(made.data)
    deletes = [url for method, url, _ in site.face.requests if method == "DELETE"]
    assert deletes == [f"/v2/droplets/{made.data['id']}"]
    assert site.account.get(made.data) is not None


def test_a_key_that_the_vendor_does_not_know(site: Site) -> None:
    order = site.order()
    site.face.tokens.clear()
    with pytest.raises(BadCredentials, match="does not know") as caught:
        site.account.create(order)
    assert caught.value.nothing_made and TOKEN not in str(caught.value)


def test_a_redirect_is_not_followed_and_the_new_host_is_told(site: Site) -> None:
    """A client that follows sends the key elsewhere, and makes a GET of the POST. AMD's host may have moved like that."""
    order = site.order()
    site.cloud.faults.arm("moved", "api.devcloud.amd.com", times=FOREVER)
    with pytest.raises(Refused, match=r"moved from .* to api\.devcloud\.amd\.com") as caught:
        site.account.create(order)
    assert f"DSTACK_JUPYTER_{site.name.upper()}_ENDPOINT=https://api.devcloud.amd.com" in caught.value.hint


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


def test_a_changed_entry_is_another_account(site: Site) -> None:
    before = site.account
    assert site.account is before
    site.face.tokens["dop_v1_another_token_0000"] = site.face.tokens[TOKEN]
    configure(site.name, token="dop_v1_another_token_0000")
    assert site.account is not before
    before.rest.close()


def test_no_log_line_at_any_level_holds_the_key(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """F64 botocore#2626."""
    caplog.set_level(logging.DEBUG)
    made = site.account.create(site.order())
    site.account.list_all(INSTALLATION)
    site.account.terminate(made.data)
    site.face.tokens.clear()
    with pytest.raises(BadCredentials):
        site.account.list_all(INSTALLATION)
    assert TOKEN not in caplog.text
