"""The pure steps of fleets of clouds' machines."""

from __future__ import annotations

import pytest

from dstack_jupyter.engine.reconcilers.cloud_fleet import chosen
from dstack_jupyter.engine.service.fleets import price_of
from dstack_jupyter.engine.steps.choice import Choice, Try
from dstack_jupyter.engine.steps.cloud_fleet import Close, MachineNow, Release, Size, Wait, Want, next_step
from dstack_jupyter.models.fleets import FleetConfiguration
from dstack_jupyter.models.offers import OfferView
from dstack_jupyter.models.states import InstanceState as I

TWO = Size(least=2, target=2, most=3, idle=100.0)
NONE = Size(least=0, target=0, most=None, idle=100.0)


def machine(id: str, state: I = I.IDLE, idle_for: float | None = 0.0, *, free: bool = True) -> MachineNow:
    return MachineNow(id, state, free, idle_for)


def made(id: str) -> MachineNow:
    return machine(id, I.PENDING, None)


def test_machines_are_wanted_until_the_least_number_is_there() -> None:
    assert next_step([], TWO) == Want()
    assert next_step([made("a")], TWO) == Want()
    assert next_step([made("a"), made("b")], TWO) == Wait()


@pytest.mark.parametrize("state", [I.TERMINATING, I.TERMINATED])
def test_what_is_lost_is_replaced(state: I) -> None:
    assert next_step([machine("a"), machine("b", state)], TWO) == Want()


def test_it_begins_with_its_target_and_comes_down_to_its_least() -> None:
    size = Size(least=0, target=2, most=None, idle=100.0)
    assert next_step([made("a")], size) == Want()
    both = [machine("a", idle_for=120.0), machine("b", idle_for=110.0)]
    assert next_step(both, size) == Release("a", "it had no job for 120 s")
    gone = [machine("a", I.TERMINATED, 120.0), machine("b", idle_for=20.0)]
    assert next_step(gone, size) == Wait(80.0)


def test_what_never_could_be_used_does_not_count_as_begun_with() -> None:
    assert next_step([machine("a", I.TERMINATED, None)], Size(0, 1, None, 100.0)) == Want()


def test_idle_machines_beyond_the_least_number_go_the_longest_idle_first() -> None:
    three = [machine("a", idle_for=101.0), machine("b", idle_for=150.0), machine("c", idle_for=10.0)]
    assert next_step(three, TWO) == Release("b", "it had no job for 150 s")
    assert next_step(three[:2], TWO) == Wait()


def test_off_keeps_them_for_ever() -> None:
    assert next_step([machine("a", idle_for=1e9)], Size(0, 0, None, None)) == Wait()


def test_a_machine_with_a_job_is_never_let_go() -> None:
    """F36 autoscaler#6746."""
    busy = machine("a", I.BUSY, 500.0, free=False)
    booked = machine("b", I.IDLE, 500.0, free=False)
    assert next_step([busy, booked], NONE) == Wait()
    assert next_step([busy, booked], NONE, deleted=True) == Wait()


def test_fewer_than_there_are_takes_what_is_no_use_yet_first() -> None:
    four = [machine("a", I.BUSY, None, free=False), machine("b", idle_for=5.0), made("c"), machine("d", idle_for=9.0)]
    assert next_step(four, TWO) == Release("c", "the fleet is to have fewer machines")
    del four[2]
    assert next_step(four, Size(2, 2, 2, None)) == Release("d", "the fleet is to have fewer machines")


def test_a_deleted_fleet_ends_all_and_closes_on_the_vendors_word() -> None:
    assert next_step([machine("a"), made("b")], TWO, deleted=True) == Release("a", "its fleet is deleted")
    assert next_step([machine("a", I.TERMINATING)], TWO, deleted=True) == Wait()
    assert next_step([machine("a", I.TERMINATED)], TWO, deleted=True) == Close()


def offer(region: str, price: float) -> OfferView:
    return OfferView(backend="do", region=region, instance_type="s", cpus=1, memory_gb=1, disk_gb=1, price=price)


HERE, THERE = offer("here", 1.0), offer("there", 2.0)


def fleet(placement: str) -> FleetConfiguration:
    return FleetConfiguration.model_validate({"type": "fleet", "nodes": 2, "placement": placement})


def test_a_fleet_takes_the_next_offer_where_one_failed() -> None:
    tries = [Try(HERE, alive=True), Try(HERE, alive=False, message="sold out")]
    assert chosen([HERE, THERE], tries, fleet("any")) == Choice(THERE)


def test_a_cluster_stays_in_one_region_and_moves_as_a_whole() -> None:
    assert chosen([HERE, THERE], [Try(THERE, alive=True)], fleet("cluster")) == Choice(THERE)
    tries = [Try(HERE, alive=True), Try(HERE, alive=False, message="sold out")]
    assert chosen([HERE, THERE], tries, fleet("cluster")).release


def test_a_plan_whose_offers_are_all_taken_is_not_free() -> None:
    """A price of 0 never asks, and the fleet would rent later by itself."""
    taken = HERE.model_copy(update={"availability": "not_available"})
    assert price_of([taken], 2) is None
    assert price_of([HERE, THERE], 2) == 2.0
    assert price_of([HERE], 0) == 0.0


def test_a_cluster_that_is_in_use_stays_short_where_it_is() -> None:
    tries = [Try(HERE, alive=True, used=True), Try(HERE, alive=False, message="sold out")]
    assert chosen([HERE, THERE], tries, fleet("cluster")) == Choice()
