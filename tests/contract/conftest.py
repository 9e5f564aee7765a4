from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dstack_jupyter.client import Client, Run, connect
from dstack_jupyter.engine.jobs.spec import ENV_IMAGE
from dstack_jupyter.models.fleets_view import FleetRequest
from dstack_jupyter.models.home import Home
from tests.clouds.core import Machine, Pure, RealClock
from tests.clouds.fixtures import Site, make_site
from tests.clouds.real import RealMachines
from tests.conftest import wait_until
from tests.contract.rented_engine import power_off
from tests.contract.subjects import EVERYTHING_THAT_RUNS, PROCESSES_ONLY, Engine, Subject, processes_here
from tests.hosts.fixtures import image_folder, private_registry, three_hosts
from tests.hosts.hosts import HostError, HostSet

__all__ = ["image_folder", "make_site", "private_registry", "three_hosts"]

QUICK = "tests.contract.quick_engine"
KINDS = [
    "local",
    pytest.param("rented", marks=pytest.mark.timeout(180)),
    pytest.param("ssh", marks=[pytest.mark.machines, pytest.mark.timeout(300)]),
    pytest.param("droplet", marks=[pytest.mark.machines, pytest.mark.timeout(300)]),
]

REAL = pytest.mark.parametrize("subject", [kind for kind in KINDS if "rented" not in str(kind)], indirect=True)
"""For what a machine that is a folder has not: Docker, and an address of its own."""


@pytest.fixture(params=KINDS)
def subject(request: pytest.FixtureRequest, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Subject]:
    """Each place in turn. Runs without an image are processes. At the end nothing of it costs anything any more."""
    monkeypatch.setenv(ENV_IMAGE, "")
    monkeypatch.setenv("CANARY", "of the engine's own")  # as a key that its user has in the environment
    folder = tmp_path / "notebooks"
    folder.mkdir()
    make: Callable[..., Iterator[Subject]] = {"local": _local, "rented": _rented, "ssh": _ssh, "droplet": _droplet}[request.param]
    yield from make(request, home, folder)


def _end(client: Client) -> None:
    for run in client.runs():
        run.stop(abort=True).wait(60)


def _local(request: pytest.FixtureRequest, home: Home, folder: Path) -> Iterator[Subject]:
    lacks = {"containers": PROCESSES_ONLY, "nodes": "it is one machine, and the run has several nodes"}
    lacks["somebody who is counted"] = "its ports are this machine's own: nobody sees who is connected"
    lacks["another machine"] = "the job's supervisor is gone: it was killed, or this machine was restarted"
    engine = Engine(home, QUICK)
    client = connect(home, start=False)

    def dies(run: Run) -> None:
        """What is left of it when this machine goes down: nothing runs, nothing was written."""
        pid = int((home.jobs / run.view.attempts[-1].id / "pid").read_text().split()[0])
        os.killpg(pid, signal.SIGKILL)

    yield Subject("local", client, folder, {"backends": ["local"]}, lacks, dies, engine.dies)
    _end(client)
    engine.end()


def _ssh(request: pytest.FixtureRequest, home: Home, folder: Path) -> Iterator[Subject]:
    hosts: HostSet = request.getfixturevalue("three_hosts")
    engine = Engine(home, QUICK)
    client = connect(home, start=False)
    config = {"user": "root", "identity_file": str(hosts.key), "hosts": [host.ip for host in hosts]}
    client.apply_fleet(FleetRequest(configuration={"type": "fleet", "name": "desk", "ssh_config": config}))
    wait_until(lambda: all(host.state == "idle" for host in client.fleet("desk").hosts), 60, "the hosts")

    def dies(run: Run) -> None:
        next(host for host in hosts if host.ip == run.view.attempts[-1].host).reboot()

    def processes() -> str:
        return "".join(host.run(EVERYTHING_THAT_RUNS)[1] for host in hosts)

    yield Subject("ssh", client, folder, {"fleets": ["desk"]}, {}, dies, engine.dies, processes)
    _end(client)
    client.delete_fleet("desk")
    wait_until(lambda: not client.fleets(), 60, "the fleet to be gone")
    engine.end()


def _droplet(request: pytest.FixtureRequest, home: Home, folder: Path) -> Iterator[Subject]:
    real: RealMachines = request.getfixturevalue("real")
    site: Site = request.getfixturevalue("make_site")(backing=real, clock=RealClock())

    def dies(run: Run) -> None:
        site.cloud.delete(_machine(site, home, run).id)

    def processes() -> str:
        """A machine that is gone has none."""
        found = []
        for machine in site.cloud.listed():
            with contextlib.suppress(HostError):
                found.append(real.inside(machine, "sh", "-c", EVERYTHING_THAT_RUNS))
        return "".join(found)

    yield from _vendor("droplet", QUICK, site, home, folder, dies, processes)


def _rented(request: pytest.FixtureRequest, home: Home, folder: Path) -> Iterator[Subject]:
    site: Site = request.getfixturevalue("make_site")(backing=Pure(0.5, 1.0), clock=RealClock())

    def dies(run: Run) -> None:
        machine = _machine(site, home, run)
        power_off(home, machine.name)
        site.cloud.delete(machine.id)

    yield from _vendor("rented", "tests.contract.rented_engine", site, home, folder, dies, processes_here)


def _vendor(
    kind: str, module: str, site: Site, home: Home, folder: Path, dies: Callable[[Run], None], processes: Callable[[], str]
) -> Iterator[Subject]:
    engine = Engine(home, module)
    client = connect(home, start=False)
    lacks = {"files after the end": "the machine of run '.*' is gone, and its files with it"}
    yield Subject(kind, client, folder, {"backends": [site.name]}, lacks, dies, engine.dies, processes)
    _end(client)
    wait_until(lambda: not site.account.list_all(home.installation()), 60, "the machines to go")
    engine.end()


def _machine(site: Site, home: Home, run: Run) -> Machine:
    """The machine of a run's newest attempt, below the vendor's face."""
    with sqlite3.connect(f"file:{home.store}?mode=ro", uri=True, timeout=10) as store:
        ((identity,),) = store.execute(
            "SELECT identity FROM instances WHERE attempt_id = ? AND state != 'terminated'", (run.view.attempts[-1].id,)
        )
    return next(machine for machine in site.cloud.listed() if machine.name == identity)
