"""The journey of a run on a real machine, from `apply` to the vendor's word that the machine is gone, whatever dies on the way.

The vendor is DigitalOcean's face over system containers that boot systemd and the real cloud-init from the engine's own create
call; the engine is a process of its own, found as users' clients find it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dstack_jupyter.machines import userdata
from tests.clouds.fixtures import TOKEN, configure
from tests.clouds.journeys import BOOT, MOMENTS, UNHEARD, Hold, Journey
from tests.clouds.real import THERE, RealMachines
from tests.conftest import wait_until

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]

SAYS = ("echo one", "sleep 1", "echo two", "sleep 1", "echo three")
LOG = b"one\ntwo\nthree\n"


Begin = Callable[..., Journey]


def test_from_apply_to_gone(begin: Begin) -> None:
    journey = begin()
    journey.apply(*SAYS)
    assert journey.ended().state == "done"
    assert journey.client.run("journey").raw() == LOG
    journey.nothing_left()
    actions = [event.action for event in journey.client.events(run="journey") if event.kind == "instance"]
    assert actions == ["wanted", "provisioning", "idle", "busy", "terminating", "terminated"]


def test_a_stop_ends_the_job_and_the_machine(begin: Begin) -> None:
    journey = begin()
    run = journey.apply("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done")
    wait_until(lambda: b"up\n" in journey.client.run("journey").raw(), 60, "the job")
    run.stop()
    assert journey.ended().state == "terminated"
    said = journey.client.run("journey").raw()  # a shell may tell of the sleep that was ended with it
    assert said.startswith(b"up\n") and said.endswith(b"bye\n")
    journey.nothing_left()


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_engine_that_is_killed_loses_nothing(begin: Begin, moment: str) -> None:
    """kill -9 at a named moment; the next engine brings the run to its end on the one machine that was ever made.

    F55 terraform-provider-aws#18051.
    """
    journey = begin()
    come = MOMENTS[moment](journey)
    journey.apply(*SAYS)
    come()
    journey.start()
    assert journey.ended().state == "done"
    assert journey.client.run("journey").raw() == LOG
    journey.nothing_left(heard=moment not in UNHEARD)


def test_a_stop_while_nobody_knows_whether_the_machine_was_made(begin: Begin) -> None:
    """F22 dstack#2068."""
    journey = begin()
    come = MOMENTS["the machine is made, and not answered"](journey)
    run = journey.apply("sleep 600")
    come()
    journey.start()
    journey.client.run(run.name).stop()
    assert journey.ended().state == "terminated"
    journey.nothing_left()


def test_a_wrong_key_in_the_middle_of_a_run_concludes_nothing(begin: Begin) -> None:
    journey = begin()
    journey.apply("echo one; until [ -e go ]; do sleep 0.1; done; echo two")
    wait_until(lambda: b"one\n" in journey.client.run("journey").raw(), 60, "the job")
    configure("digitalocean", "dop_v1_wrong")
    run = journey.client.run("journey")
    run.stop()
    wait_until(lambda: journey.seen("terminating", "key"), 60, "the vendor's refusal")
    assert len(journey.site.cloud.listed()) == 1
    configure("digitalocean", TOKEN)
    assert journey.ended().state == "terminated"
    journey.nothing_left()


def test_a_machine_that_was_deleted_by_hand_is_an_interruption(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    journey = begin(module="tests.clouds.quick_engine")
    journey.apply("echo up; sleep 600")
    wait_until(lambda: b"up\n" in journey.client.run("journey").raw(), 60, "the job")
    (machine,) = journey.site.cloud.listed()
    journey.site.cloud.delete(machine.id)
    found = journey.ended()
    assert (found.state, found.attempts[-1].reason) == ("failed", "interrupted_by_no_capacity")
    journey.nothing_left()


def test_a_machine_whose_engine_never_comes_back_powers_itself_off(begin: Begin, real: RealMachines) -> None:
    """The guard lets the job finish; the engine that comes in the end says what is still billed, reads its log, and ends it.

    F54 dask-cloudprovider#220.
    """
    journey = begin(module="tests.clouds.quick_engine")
    journey.apply("echo up; sleep 15; echo late; exit 7")  # the machine's patience is 8 s
    wait_until(lambda: b"up\n" in journey.client.run("journey").raw(), 60, "the job")
    (machine,) = journey.site.cloud.listed()
    (attempt,) = journey.view().attempts
    journey.kill()
    wait_until(lambda: [each.status for each in journey.site.cloud.listed()] == ["stopped"], 120, "the guard")
    assert real.on_disk(machine, f"{THERE}/.dstack_jupyter/jobs/{attempt.id}/exit").split() == ["7", "-"]
    assert "no job under way" in real.on_disk(machine, userdata.WHY)
    hold = Hold(journey.site, "POST", f"/v2/droplets/{machine.id}/actions", answered=False)
    journey.start()
    assert hold.reached.wait(BOOT), f"it is not started: {journey.rows()}"
    (shown,) = journey.view().machines
    assert (shown.stuck, shown.billed) == ("off, still billed", True)
    assert "it is off, and is started again to read what its job left" in shown.message
    hold.release()
    found = journey.ended()
    assert (found.state, found.attempts[-1].exit_code) == ("failed", 7)
    assert journey.client.run("journey").raw() == b"up\nlate\n"
    journey.nothing_left()


def test_two_nodes_have_a_machine_each(begin: Begin) -> None:
    journey = begin()
    journey.apply('echo "$DSTACK_NODE_RANK of $DSTACK_NODES_NUM on $(hostname)"', nodes=2)
    assert journey.ended().state == "done"
    run = journey.client.run("journey")
    said = [run.raw(job).decode().split(" on ") for job in (0, 1)]
    assert [words[0] for words in said] == ["0 of 2", "1 of 2"]
    assert sorted(words[1].strip() for words in said) == sorted(journey.made())
    journey.nothing_left(machines=2)
