"""Journeys through a network that cannot be trusted: an impostor, an engine that moves; and a first boot that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncssh
import pytest
import yaml

from tests.clouds.core import Machine
from tests.clouds.journeys import Journey
from tests.clouds.real import RealMachines
from tests.conftest import wait_until

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]

Begin = Callable[..., Journey]
Change = Callable[[dict[str, Any]], None]


class Changed:
    """``core.Backing``: the first machine that is made boots from another user-data than the engine sent."""

    def __init__(self, real: RealMachines, change: Change) -> None:
        self._change: Change | None = change
        self.look, self.end = real.look, real.end
        self._real = real

    def begin(self, machine: Machine) -> None:
        change, self._change = self._change, None
        if change is not None:
            config = yaml.safe_load(machine.user_data)
            change(config)
            machine.user_data = "#cloud-config\n" + yaml.safe_dump(config, sort_keys=False, width=1000)
        self._real.begin(machine)


def another_host_key(config: dict[str, Any]) -> None:
    """As an impostor at the address has it. Whoever does not look at the key is let in."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    config["ssh_keys"] = {
        "ed25519_private": key.export_private_key("openssh").decode(),
        "ed25519_public": " ".join(key.export_public_key("openssh").decode().split()[:2]),
    }


def no_docker(config: dict[str, Any]) -> None:
    """Docker never starts, as where a mirror serves a broken package."""
    config["bootcmd"].append(["systemctl", "mask", "--now", "docker.service", "docker.socket"])


def test_an_impostor_at_the_address_gets_nothing(begin: Begin, real: RealMachines) -> None:
    """F46 dstack#2637."""
    journey = begin(backing=Changed(real, another_host_key))
    run = journey.apply("echo secret", env={"TOKEN": "canary-7f21"})
    wait_until(lambda: journey.seen("provisioning", "another machine"), 90, "the impostor to be seen")
    (machine,) = journey.site.cloud.listed()
    assert "Accepted" not in real.inside(machine, "journalctl", "--unit=ssh")
    assert "no" in real.inside(machine, "sh", "-c", "[ -e ~/.dstack_jupyter ] || echo no")
    assert not journey.view().ended
    run.stop()
    assert journey.ended().state == "terminated"
    journey.nothing_left()


def test_a_log_is_whole_though_the_engine_moved_to_another_address(begin: Begin, real: RealMachines) -> None:
    journey = begin()
    run = journey.apply("n=0; while [ $n -lt 60 ]; do n=$((n+1)); echo $n; sleep 0.2; done; until [ -e go ]; do sleep 0.2; done")
    wait_until(lambda: b"\n5\n" in run.raw(), 60, "the job")
    (machine,) = journey.site.cloud.listed()
    with real.we_moved() as address:
        wait_until(lambda: b"\n60\n" in run.raw(), 120, "the log from the other address")
        assert address in real.inside(machine, "ss", "--no-header", "--tcp", "state", "established")
        real.inside(machine, "sh", "-c", f"touch ~/.dstack_jupyter/jobs/{journey.view().attempts[-1].id}/work/go")
        assert journey.ended().state == "done"
    assert run.raw() == b"".join(b"%d\n" % number for number in range(1, 61))
    assert not any(condition.type == "unknown" for condition in journey.view().conditions)
    journey.nothing_left()


def test_a_machine_whose_first_boot_fails_is_given_back_and_the_next_offer_has_the_job(begin: Begin, real: RealMachines) -> None:
    journey = begin(backing=Changed(real, no_docker))
    journey.apply("echo here")
    assert journey.ended().state == "done"
    assert journey.client.run("journey").raw() == b"here\n"
    tried = [event.message for event in journey.client.events(run="journey") if event.action == "tried"]
    assert len(tried) == 1
    assert "its first boot failed: Docker does not start" in tried[0]
    journey.nothing_left(machines=2)
