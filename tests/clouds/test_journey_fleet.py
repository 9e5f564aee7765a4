"""A fleet of clouds' machines on a real machine: two runs one after the other, one create; a killed engine between them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dstack_jupyter.models.errors import Conflict
from dstack_jupyter.models.fleets_view import FleetRequest
from tests.clouds.journeys import Journey
from tests.conftest import wait_until

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]

POOL = {"type": "fleet", "name": "pool", "nodes": 1, "backends": ["digitalocean"], "idle_duration": "1h"}


def test_two_runs_share_the_machine_of_a_fleet(begin: Callable[..., Journey]) -> None:
    journey = begin()
    client = journey.client
    plan = client.plan_fleet(FleetRequest(configuration=POOL))
    assert plan.more == 1
    assert plan.price
    client.apply_fleet(FleetRequest(configuration=POOL))
    wait_until(lambda: [host.state for host in client.fleet("pool").hosts] == ["idle"], 120, f"the fleet: {journey.rows()}")
    first = journey.apply("echo one; until [ -e go ]; do sleep 0.1; done", name="first")
    wait_until(lambda: b"one\n" in client.run("first").raw(), 60, "the job")
    with pytest.raises(Conflict, match="first"):
        client.delete_fleet("pool")
    journey.kill()
    journey.start()
    client = journey.client
    client.run(first.name).stop()
    assert journey.ended("first").state == "terminated"
    journey.apply("echo two", name="second", fleets=["pool"])
    assert journey.ended("second").state == "done"
    assert client.run("second").raw() == b"two\n"
    wait_until(lambda: [host.state for host in client.fleet("pool").hosts] == ["idle"], 60, "the machine to be idle again")
    assert len(journey.left()) == 1
    client.delete_fleet("pool")
    journey.nothing_left()
    wait_until(lambda: not client.fleets(), 30, "the fleet to be gone")
