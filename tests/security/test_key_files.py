"""Where engines share a store nobody names a file of an engine's machine; a bare name is each engine's own copy of a key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.engine.store import hosts
from dstack_jupyter.models.errors import Forbidden
from dstack_jupyter.models.fleets_view import FleetRequest
from tests.engine.test_leases import pair, team_key
from tests.postgres import postgres

__all__ = ["pair", "postgres", "team_key"]

pytestmark = pytest.mark.parametrize("where", ["postgresql"], indirect=True)


def wanted(**ssh: Any) -> FleetRequest:
    host = {"hostname": "127.0.0.1", "port": 1}
    config = {"user": "u", "hosts": [host], **ssh}
    return FleetRequest(configuration={"type": "fleet", "name": "desk", "ssh_config": config}, base="/")


async def test_a_path_is_refused_whatever_is_there(pair: tuple[Engine, Engine], tmp_path: Path) -> None:
    there = tmp_path / "key"
    there.touch(0o600)
    told = set()
    for path in (str(there), str(tmp_path / "absent"), "/etc/shadow", "~/.ssh/id", "../key", "..", "keys/hosts/../store.json"):
        for given in (
            {"identity_file": path},
            {"hosts": [{"hostname": "h", "identity_file": path}]},
            {"proxy_jump": {"hostname": "gate", "user": "u", "identity_file": path}},
        ):
            with pytest.raises(Forbidden) as refused:
                await pair[0].service.fleets.apply(wanted(**given), user="ada")
            told.add(refused.value.message.replace(repr(path), "") + refused.value.hint)
    assert len(told) == 1, "what is refused tells what is there"
    assert str(pair[0].home.host_keys) in told.pop()
    assert await pair[0].service.fleets.list(project="main") == []


async def test_each_engine_finds_its_own_copy(pair: tuple[Engine, Engine]) -> None:
    jump = {"hostname": "gate", "user": "u", "port": 1, "identity_file": "door"}
    view = await pair[0].service.fleets.apply(wanted(identity_file="lab", proxy_jump=jump), user="ada")
    for engine in pair:
        row, _ = await engine._database.read(hosts.load_host, view.hosts[0].id)
        address = engine._machines.host(row).host.address
        assert address.identity_file == str(engine.home.host_keys / "lab")
        assert address.proxy is not None and address.proxy.identity_file == str(engine.home.host_keys / "door")
    found = {each["message"] for each in await pair[1].service.doctor() if each["check"] == "hosts"}
    assert any(f"the key {pair[1].home.host_keys / 'lab'} cannot be read" in message for message in found), found
    await pair[0].service.fleets.delete("desk", project="main", user="ada")
