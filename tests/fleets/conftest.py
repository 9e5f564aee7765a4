"""Fleets of real hosts, through a real engine."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dstack_jupyter.client import Client, Run, connect
from dstack_jupyter.engine.jobs.spec import ENV_IMAGE
from dstack_jupyter.models.fleets_view import FleetRequest, FleetView
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.runs import ApplyRequest, Context
from tests.conftest import wait_until
from tests.hosts.fixtures import image_folder, private_registry, three_hosts  # noqa: F401
from tests.hosts.hosts import HostSet


@pytest.fixture
def client(home: Home, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client whose engine starts runs without an image as processes."""
    monkeypatch.setenv(ENV_IMAGE, "")
    return connect(home)


Apply = Callable[..., FleetView]


@pytest.fixture
def fleet(client: Client, three_hosts: HostSet) -> Iterator[Apply]:  # noqa: F811
    """Applies a fleet named `desk` and waits until each host is idle or says why not; gives the hosts back afterwards."""
    names: set[str] = set()

    def apply_fleet(
        hosts: list[Any] | None = None, *, name: str = "desk", ssh: dict[str, Any] | None = None, **more: Any
    ) -> FleetView:
        given = [host.ip for host in three_hosts] if hosts is None else hosts
        config = {"user": "root", "identity_file": str(three_hosts.key), "hosts": given, **(ssh or {})}
        view = client.apply_fleet(FleetRequest(configuration={"type": "fleet", "name": name, "ssh_config": config, **more}))
        names.add(name)

        def settled() -> bool:
            return all(host.message or host.state != "pending" for host in client.fleet(name).hosts)

        wait_until(settled, 30, "the hosts")
        return client.fleet(view.name)

    yield apply_fleet
    for run in client.runs():
        run.stop(abort=True).wait(30)
    for name in names & {view.name for view in client.fleets()}:
        client.delete_fleet(name)
    wait_until(lambda: not client.fleets(), 30, "the fleets to be gone")


def submit(client: Client, *commands: str, **more: Any) -> Run:
    """Submit a task with `sh`."""
    password = more.pop("registry_password", "")
    configuration = {"type": "task", "commands": list(commands), "shell": "sh", "fleets": ["desk"], **more}
    if not commands:
        del configuration["commands"]
    return client.apply(
        ApplyRequest(
            configuration=configuration, request_key=secrets.token_hex(8), context=Context(cwd="/"), registry_password=password
        )
    )
