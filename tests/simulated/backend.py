"""A vendor in memory: machines by identity, calls that may be cut before and after they take effect."""

from __future__ import annotations

from typing import Any

from dstack_jupyter.backends import registry
from dstack_jupyter.backends.base import Feed
from dstack_jupyter.models.runs import OfferView, PermissionView

from .loop import current
from .world import VM, World

NAME = "simulated"
_world: World | None = None


def use(world: World) -> None:
    """Rent machines of this world from now on."""
    global _world  # noqa: PLW0603
    _world = world
    if NAME not in registry.entries:
        registry.register(NAME, registry.Entry("Simulated", "vm", f"{__name__}:SimulatedBackend"))


class SimulatedBackend:
    """``backends.base.Backend``: one offer at a dollar an hour; a create with a known identity gives the same machine."""

    feed = Feed(fresh=1e9, patience=10.0, kept=False)

    def account(self) -> str:
        return "one"

    def offers(self) -> dict[str, list[Any]]:
        offer = OfferView(
            backend=NAME,
            region="here",
            instance_type="sim-1",
            cpus=8,
            memory_gb=32,
            disk_gb=200,
            price=1.0,
            spot=False,
            cpu_arch="x86",
        )
        return {name: [value] for name, value in offer.model_dump().items()}

    def check(self) -> list[PermissionView]:
        return []

    def create_instance(self, identity: str, offer: OfferView) -> dict[str, Any]:
        assert _world is not None
        _point("vendor.create: asked")
        _world.on_create(identity)
        if all(vm.identity != identity for vm in _world.vms):
            _world.vms.append(VM(identity, _world.time.now))
        _point("vendor.create: done, not answered")
        return {"id": identity}

    def terminate_instance(self, identity: str, data: dict[str, Any]) -> None:
        assert _world is not None
        _point("vendor.terminate: asked")
        for vm in _world.vms:
            if vm.identity == identity and vm.gone is None:
                vm.gone = _world.time.now
                for job in _world.host(identity).jobs.values():
                    job.lose()
        _point("vendor.terminate: done, not answered")


def _point(name: str) -> None:
    loop = current()
    if loop is not None:
        loop.point_now(name)
