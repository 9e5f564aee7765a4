"""Fixtures for the tests of other folders: their conftest imports the names it uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.hosts.hosts import Host, HostSet, missing_tools
from tests.hosts.images import busybox_image, debian_like_image
from tests.hosts.registry import Registry, missing_registry

BUSYBOX = "local/busybox"
DEBIAN = "local/debian"


def need(*missing: str) -> None:
    """Skips with one line where the machine lacks something; a CI that lacks it fails."""
    if missing:
        assert not os.environ.get("CI"), f"CI must have: {', '.join(missing)}"
        pytest.skip(f"needs {', '.join(missing)}: `make test-machines` as root installs them")


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the images' tars are, made once a session."""
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="session")
def three_hosts(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Iterator[HostSet]:
    """Three hosts with dockerd and both images. A test gives them back as it found them."""
    need(*missing_tools(docker=True))
    with HostSet(tmp_path_factory.mktemp("hosts"), count=3, docker=True) as hosts:
        tars = {BUSYBOX: busybox_image(image_folder), DEBIAN: debian_like_image(image_folder)}

        def load(host: Host) -> None:
            for name, tar in tars.items():
                host.load(tar, name)

        with ThreadPoolExecutor() as pool:
            list(pool.map(load, hosts))
        yield hosts


@pytest.fixture(scope="session")
def private_registry(three_hosts: HostSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with a password, of the three hosts' network; it holds `team/busybox`."""
    need(*missing_registry())
    with Registry(three_hosts, tmp_path_factory.mktemp("registry"), "team", "open sesame") as registry:
        registry.push(three_hosts[0], BUSYBOX, "team/busybox")
        yield registry
