"""`type: fleet`: every form of the reference, and its faults by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dstack_jupyter.engine.keys import identity_files
from dstack_jupyter.engine.service.fleets import address_of, checked
from dstack_jupyter.models.errors import ConfigurationError, NotSupportedYet
from dstack_jupyter.models.fleets import FleetConfiguration
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.yaml_source import load_configuration

WHOLE = """type: fleet
name: desk
placement: cluster
blocks: auto
env: [A=1]
ssh_config:
  user: ubuntu
  port: 2222
  identity_file: key
  network: 10.0.0.0/24
  proxy_jump: {hostname: gate, user: jump, port: 22, identity_file: /k}
  hosts:
    - 10.0.0.1
    - hostname: 10.0.0.2
      port: 22
      user: root
      identity_file: ~/other
      internal_ip: 10.0.0.22
      blocks: 4
      proxy_jump: {hostname: other-gate, user: x}
"""


def test_the_whole_of_it(tmp_path: Path) -> None:
    fleet = load_configuration(WHOLE)
    assert isinstance(fleet, FleetConfiguration)
    params = fleet.ssh_config
    assert params is not None
    key = partial(identity_files.stored, base="/base", home=Home(tmp_path), anywhere=True)
    one, two = (address_of(params, host, key) for host in params.hosts)
    assert (one.hostname, one.port, one.user, one.identity_file) == ("10.0.0.1", 2222, "ubuntu", "/base/key")
    assert one.proxy is not None and (one.proxy.endpoint, one.proxy.identity_file) == ("gate:22", "/k")
    assert (two.port, two.user) == (22, "root") and two.identity_file.endswith("/other")
    assert two.proxy is not None and (two.proxy.hostname, two.proxy.identity_file) == ("other-gate", "/base/key")
    assert load_configuration(WHOLE) == FleetConfiguration.model_validate(fleet.given())


@pytest.mark.parametrize(
    ("yaml", "fault"),
    [
        ("type: fleet\n", "exactly one of ssh_config and nodes"),
        ("type: fleet\nssh_config: {user: a, hosts: []}\n", "at least 1"),
        ("type: fleet\nssh_config: {hosts: [a]}\n", "no user is given for host a"),
        ("type: fleet\nssh_config: {user: a, hosts: [h, h]}\n", "a host is given twice"),
        ("type: fleet\nssh_config: {user: a, hosts: [{hostname: h, internal_ip: 8.8.8.8}]}\n", "private IP"),
        ("type: fleet\nssh_config: {user: a, network: 8.8.8.0/24, hosts: [h]}\n", "private network"),
        ("type: fleet\nssh_config: {user: a, hosts: [h], prot: 22}\n", "did you mean 'port'"),
        ("type: fleet\nname: X\nssh_config: {user: a, hosts: [h]}\n", "2 to 41"),
        ("type: fleet\nblocks: 0\nssh_config: {user: a, hosts: [h]}\n", "blocks"),
    ],
)
def test_faults_are_named(yaml: str, fault: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_configuration(yaml)
    assert fault in str(error.value)


def test_what_is_not_built_is_refused() -> None:
    with pytest.raises(NotSupportedYet, match="blocks"):
        checked({"type": "fleet", "nodes": "0..2", "blocks": 2})
    with pytest.raises(NotSupportedYet, match="max_price"):
        checked({"type": "fleet", "max_price": 1, "ssh_config": {"user": "a", "hosts": ["h"]}})
    with pytest.raises(NotSupportedYet, match="tags"):
        checked({"type": "fleet", "tags": {"a": "b"}, "ssh_config": {"user": "a", "hosts": ["h"]}})


@pytest.mark.parametrize(("given", "least", "most"), [(2, 2, 2), ("1..3", 1, 3), ("..3", 0, 3), ({"min": 1, "max": 2}, 1, 2)])
def test_nodes_of_a_cloud_fleet(given: Any, least: int, most: int) -> None:
    nodes = FleetConfiguration.model_validate({"nodes": given}).nodes
    assert nodes is not None and (nodes.min, nodes.max) == (least, most)
