"""What a plan says of the guard that ends a machine: the words match what the machine is given."""

from __future__ import annotations

from typing import Any

import pytest

from dstack_jupyter.backends.base import Traits
from dstack_jupyter.engine.provisioning.guards import guard_of, traits_of
from dstack_jupyter.engine.provisioning.orders import AFTER_ITS_TIME, guard_times
from dstack_jupyter.machines.userdata import LEAST_SILENCE
from dstack_jupyter.models.durations import format_duration
from dstack_jupyter.models.offers import OfferView
from dstack_jupyter.models.stored import Limits

BILLED = Traits(resend="look", stopped_is_billed=True, user_data=1 << 16)
FREE_WHEN_OFF = Traits(resend="token", stopped_is_billed=False, user_data=1 << 14)


def offer(backend: str = "digitalocean", price: float | None = 1.5) -> OfferView:
    return OfferView(backend=backend, instance_type="gpu-1", cpus=8, memory_gb=32, disk_gb=100, price=price)


def test_a_rented_machine_powers_itself_off_and_the_plan_says_whether_that_ends_the_bill() -> None:
    billed = guard_of(offer(), Limits.of({}), BILLED)
    assert (billed.kind, billed.off_is_billed) == ("host", True)
    assert "the engine ends the machine when the job has ended" in billed.text
    assert f"after {format_duration(LEAST_SILENCE)} without a word" in billed.text
    assert "digitalocean bills a machine that is off too" in billed.text
    free = guard_of(offer("aws"), Limits.of({}), FREE_WHEN_OFF)
    assert (free.kind, free.off_is_billed) == ("host", False)
    assert "aws does not bill a machine that is off" in free.text


def test_max_duration_is_a_timer_beside_the_job_and_later_one_on_the_machine() -> None:
    text = guard_of(offer(), Limits.of({"max_duration": 7200}), BILLED).text
    assert "a timer beside the job ends it after 2 h" in text
    assert f"after {format_duration(7200 + AFTER_ITS_TIME)} in any case" in text
    assert "nothing ends the job but itself or you" in guard_of(offer(), Limits.of({"max_duration": "off"}), BILLED).text


def test_idle_duration_is_the_silence_that_the_machine_bears() -> None:
    assert "after 2 h without a word" in guard_of(offer(), Limits.of({"idle_duration": 7200}), BILLED).text


def test_idle_duration_off_arms_nothing_and_the_plan_says_engine_only() -> None:
    guard = guard_of(offer(), Limits.of({"idle_duration": "off"}), BILLED)
    assert guard.kind == "engine"
    assert "engine-only" in guard.text
    assert "powers it off" not in guard.text
    # A limit on its time is armed all the same.
    limited = guard_of(offer(), Limits.of({"idle_duration": "off", "max_duration": 3600}), BILLED)
    assert limited.kind == "host"
    assert "without a word" not in limited.text


@pytest.mark.parametrize(
    "configuration",
    [{}, {"idle_duration": "off"}, {"idle_duration": 60}, {"max_duration": 60}, {"idle_duration": "off", "max_duration": 60}],
)
def test_a_guard_is_promised_on_the_machine_if_and_only_if_one_is_armed(configuration: dict[str, Any]) -> None:
    """F38 dstack#955."""
    armed = any(guard_times(Limits.of(configuration)).values())
    assert (guard_of(offer(), Limits.of(configuration), BILLED).kind == "host") == armed


@pytest.mark.parametrize("backend", ["local", "ssh"])
def test_a_machine_of_ones_own_is_never_ended(backend: str) -> None:
    assert traits_of(backend) is None
    limited = guard_of(offer(backend, 0.0), Limits.of({"max_duration": 90}), None)
    assert limited.kind == "host"
    assert limited.text == "costs nothing; a timer beside the job ends it after 1 min 30 s; the machine is yours and left alone"
    assert guard_of(offer(backend, 0.0), Limits.of({}), None).kind == "none"


def test_of_a_vendor_that_nobody_can_ask_nothing_is_promised() -> None:
    assert traits_of("no-such-vendor") is None
    guard = guard_of(offer("no-such-vendor"), Limits.of({}), None)
    assert guard.kind == "engine"
    assert "without the engine nothing ends the machine" in guard.text


def test_durations_are_read_by_people() -> None:
    assert [format_duration(each) for each in (90, 1800, 3600, 5400, 86400)] == [
        "1 min 30 s",
        "30 min",
        "1 h",
        "1 h 30 min",
        "24 h",
    ]
