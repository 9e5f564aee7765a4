"""The tutorial on fleets, executed against real hosts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from dstack_jupyter.engine.jobs.spec import ENV_IMAGE
from dstack_jupyter.models.home import Home
from tests.hosts.fixtures import DEBIAN
from tests.hosts.hosts import HostSet
from tests.notebooks.executing import executed

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("image", ["", DEBIAN], ids=["processes", "containers"])
def test_the_fleet_notebook_runs(
    image: str, home: Home, three_hosts: HostSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_IMAGE, image)
    folder = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns("out", ".ipynb_checkpoints"))
    fleet = yaml.safe_load((folder / "fleet.dstack.yml").read_text())
    addresses = [host.ip for host in three_hosts]
    fleet["ssh_config"] |= {"user": "root", "identity_file": str(three_hosts.key)}
    fleet["ssh_config"]["hosts"] = [*addresses[:2], {"hostname": addresses[2], "blocks": 2}]
    (folder / "fleet.dstack.yml").write_text(yaml.safe_dump(fleet))
    text, images = executed(folder / "ssh-fleet.ipynb", timeout=200)
    assert "pi is about 3.1" in text
    assert "node 1 of 2" in text
    assert all(address in text for address in addresses)
    assert images
    assert "given back" in text
