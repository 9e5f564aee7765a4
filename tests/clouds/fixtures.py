"""Fixtures for tests that need a simulated cloud: their conftest imports the names it uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dstack_jupyter.backends import registry
from dstack_jupyter.backends.base import CloudResource, InstanceRequest
from dstack_jupyter.models.home import Home, write_private
from dstack_jupyter.models.offers import OfferView
from tests.clouds.catalog import AMD_SIZES, PAGE_SCOPES, SIZES, SPEC, SWITCHES
from tests.clouds.contract import spec_file
from tests.clouds.core import Backing, Clock, Cloud
from tests.clouds.digitalocean import DigitalOceanFace
from tests.clouds.server import Server

TOKEN = "dop_v1_canary0d1f6a2b9c8e7d6f5a4b3c2d1e0f"
INSTALLATION = "a1b2c3d4e5f60718"
OFFERS: dict[str, dict[str, Any]] = {
    "digitalocean": {
        "region": "tor1", "instance_type": "s-4vcpu-8gb", "cpus": 4, "memory_gb": 8, "disk_gb": 160, "price": 0.07143,
    },
    "amddevcloud": {
        "region": "atl1", "instance_type": "gpu-mi300x1-192gb-devcloud", "cpus": 20, "memory_gb": 240, "disk_gb": 720,
        "gpu_vendor": "amd", "gpu_name": "MI300X", "gpu_count": 1, "gpu_memory_gb": 192, "price": 1.99,
    },
}  # fmt: skip
"""Every vendor that has a fake, with an offer of its own: what holds for all of them is tested with each of these."""


@dataclass(frozen=True)
class Site:
    """A vendor as a user has it: a face with an account, an entry in config.yml, our backend over it."""

    name: str
    face: DigitalOceanFace
    server: Server
    backend: Any

    @property
    def cloud(self) -> Cloud:
        return self.face.cloud

    @property
    def account(self) -> Any:
        return self.backend.cloud()

    def scopes(self, *missing: str) -> None:
        """The token has the page's scopes but these."""
        assert set(missing) <= PAGE_SCOPES
        self.face.tokens[TOKEN] = PAGE_SCOPES - set(missing)

    def order(self, number: int = 1, **offer: Any) -> InstanceRequest:
        """An order with everything attached that it needs."""
        view = OfferView(**{"backend": self.name, **OFFERS[self.name], **offer})
        key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5Wf6c0zY4Yb1yY8z7m6Z9bZl1Q5q1Q2r3s4t5u6v7w"
        order = InstanceRequest(f"dj-{INSTALLATION[:8]}-{number:012x}", view, "#cloud-config\n{}\n", key)
        resources: tuple[CloudResource, ...] = tuple(self.account.attach(need) for need in self.account.needs(order))
        return InstanceRequest(order.identity, view, order.user_data, key, resources)

    def stranger(self, name: str) -> None:
        """A machine that somebody else made in the account."""
        offer = OFFERS[self.name]
        gpu = bool(offer.get("gpu_count"))
        self.cloud.create(
            name=name, size=offer["instance_type"], region=offer["region"], image="ubuntu-24-04-x64", user_data="", gpu=gpu
        )

    def creates(self) -> list[Any]:
        """The bodies of all create calls that came in."""
        return [body for method, url, body in self.face.requests if (method, url) == ("POST", "/v2/droplets")]


def configure(name: str, token: str = TOKEN, **more: Any) -> None:
    """Write this user's config.yml."""
    path = Path.home() / ".dstack" / "server" / "config.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    entry = {"type": name, "creds": {"type": "api_key", "api_key": token}, **more}
    write_private(path, yaml.safe_dump({"projects": [{"name": "main", "backends": [entry]}]}).encode())


@pytest.fixture
def make_site(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    """Make a site of a vendor. At the end nothing has broken the published file and our backend is forgotten."""
    made: list[Site] = []

    def make(name: str = "digitalocean", backing: Backing | None = None, clock: Clock | None = None, **entry: Any) -> Site:
        sizes = {"digitalocean": SIZES, "amddevcloud": AMD_SIZES}[name]
        face = DigitalOceanFace(Cloud(backing, clock, SWITCHES), sizes, spec_file(SPEC))
        face.tokens[TOKEN] = PAGE_SCOPES
        server = Server(face)
        monkeypatch.setenv(f"DSTACK_JUPYTER_{name.upper()}_ENDPOINT", server.url)
        configure(name, **entry)
        found = registry.entries[name]
        registry.register(name, found)  # a fresh one
        made.append(Site(name, face, server, registry.load(name)))
        return made[-1]

    yield make
    for site in made:
        for _, _, account in site.backend._accounts.values():
            account.rest.close()
        registry.register(site.name, registry.entries[site.name])
        site.server.close()
        site.cloud.empty()
        assert not site.face.breaches, "\n".join(site.face.breaches)


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """DigitalOcean with the page's scopes."""
    return make_site()
