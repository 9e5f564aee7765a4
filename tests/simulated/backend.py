"""A vendor in memory, in virtual time: machines by number, calls that may be cut before and after they take effect, and faults.

Each fault is a field of ``world.Faults``. Calls are made at once, so what takes time at a vendor shows as what it tells later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dstack_jupyter.backends import registry
from dstack_jupyter.backends.base import Feed, Instance, Need, Order, Thing, Traits
from dstack_jupyter.models.errors import (
    BadCredentials,
    Busy,
    NoCapacity,
    RateLimited,
    UnknownOutcome,
)
from dstack_jupyter.models.runs import OfferView, PermissionView

from .loop import Crashed, current
from .world import VM, World

NAME = "simulated"
LATE = 2.0
"""Seconds after which a create that was on its way when its engine died takes effect."""
BOOT = 6.0
"""Seconds from a create to a machine that has its address."""
TRAITS = Traits(resend="look", settles=20.0, absent_after=60.0, ready_within=300.0, user_data=1 << 16)
_world: World | None = None


def use(world: World) -> None:
    """Rent machines of this world from now on."""
    global _world  # noqa: PLW0603
    _world = world
    registry.register(NAME, registry.Entry("Simulated", "vm", f"{__name__}:SimulatedBackend"))


class SimulatedBackend:
    """``backends.base.Backend`` and ``Clouds``: three offers, the cheapest first."""

    feed = Feed(fresh=1e9, patience=10.0, kept=False)

    def __init__(self) -> None:
        assert _world is not None
        self._cloud = SimulatedCloud(_world)

    def account(self) -> str:
        return "one"

    def offers(self) -> dict[str, list[Any]]:
        offers = [
            OfferView(
                backend=NAME,
                region=region,
                instance_type=kind,
                cpus=8,
                memory_gb=32,
                disk_gb=200,
                price=price,
                spot=False,
                cpu_arch="x86",
            ).model_dump()
            for region, kind, price in (("here", "sim-1", 1.0), ("there", "sim-1", 1.5), ("there", "sim-2", 2.0))
        ]
        return {name: [offer[name] for offer in offers] for name in offers[0]}

    def check(self) -> list[PermissionView]:
        return []

    def cloud(self, project: str = "main") -> SimulatedCloud:
        return self._cloud

    def checked(self) -> tuple[list[PermissionView], float] | None:
        return None


class SimulatedCloud:
    """``backends.base.Cloud``. It honours no token: a second create is a second machine."""

    traits = TRAITS
    mark = "one"

    def __init__(self, world: World) -> None:
        self._world = world
        self._faults = world.faults

    @property
    def _now(self) -> float:
        return float(self._world.time.now)

    def _asked(self, name: str) -> None:
        _point(f"vendor.{name}: asked")
        if self._now < self._faults.wrong_key_until:
            raise BadCredentials("the key is not known")
        if self._faults.limited > 0:
            self._faults.limited -= 1
            raise RateLimited("too many requests", delay=3.0)

    def needs(self, order: Order) -> Sequence[Need]:
        return [
            Need("key", f"{order.identity.rpartition('-')[0]}-key", shared=True, data={"public_key": order.login_key}),
            Need("disk", f"{order.identity}-disk"),
        ]

    def attach(self, need: Need) -> Thing:
        self._asked("attach")
        self._world.on_attach(need.identity)
        self._world.things.setdefault(need.identity, need.kind)
        _point("vendor.attach: done, not answered")
        return Thing(need.kind, need.identity, need.identity)

    def list_attached(self, installation: str) -> list[Thing]:
        self._asked("list_attached")
        return [Thing(kind, identity, identity) for identity, kind in self._world.things.items()]

    def detach(self, thing: Thing) -> None:
        self._asked("detach")
        if any(vm.identity == thing.identity.removesuffix("-disk") and vm.gone is None for vm in self._world.vms):
            raise Busy("a machine has it")
        self._world.things.pop(thing.id, None)
        _point("vendor.detach: done, not answered")

    def create(self, order: Order) -> Instance:
        if not order.first and (there := self.find(order.identity)):
            return there[0]
        self._asked("create")
        self._world.on_create(order.identity)
        place = f"{order.offer.region} {order.offer.instance_type}"
        if place in self._faults.sold_out:
            raise NoCapacity(f"{place} is sold out")
        if (stock := self._faults.sold_out_after.get(place)) is not None:
            if not stock:
                raise NoCapacity(f"{place} is sold out")
            self._faults.sold_out_after[place] = stock - 1
        loop = current()
        if loop is not None and not loop.passes("vendor.create: on its way"):
            self._world.time.at(self._now + LATE, lambda: self._make(order))
            raise Crashed
        if self._faults.late_creates > 0:
            self._faults.late_creates -= 1
            self._world.time.at(self._now + self._faults.late_by, lambda: self._make(order))
            raise UnknownOutcome("no answer in time")
        vm = self._make(order)
        _point("vendor.create: done, not answered")
        if self._faults.lost_answers > 0:
            self._faults.lost_answers -= 1
            raise UnknownOutcome("no answer in time")
        return self._told(vm)

    def _make(self, order: Order) -> VM:
        vm = VM(order.identity, self._now, number=len(self._world.vms) + 1, place=order.offer.region)
        self._world.vms.append(vm)
        if self._faults.dead_on_arrival > 0:
            self._faults.dead_on_arrival -= 1
            vm.dead = True
        return vm

    def _told(self, vm: VM) -> Instance:
        there = not vm.dead and self._now >= vm.made + BOOT
        return Instance(
            identity=vm.identity,
            data={"number": vm.number},
            word="stopped" if vm.off else "running" if self._now >= vm.made + BOOT else "starting",
            said="off" if vm.off else "on",
            region=vm.place,
            address=vm.identity if there or (vm.dead and self._now >= vm.made + BOOT) else "",
            created_at=vm.made,
        )

    def _visible(self, vm: VM) -> bool:
        hidden = self._faults.hidden_for if vm.gone is None else 0.0
        return vm.gone is None and self._now >= vm.made + hidden and self._now >= self._faults.flicker_until

    def find(self, identity: str) -> list[Instance]:
        self._asked("find")
        return [self._told(vm) for vm in self._world.vms if vm.identity == identity and self._visible(vm)]

    def list_all(self, installation: str) -> list[Instance]:
        self._asked("list_all")
        return [self._told(vm) for vm in self._world.vms if self._visible(vm)]

    def get(self, data: Mapping[str, Any]) -> Instance | None:
        self._asked("get")
        vm = self._world.vms[data["number"] - 1]
        return self._told(vm) if self._visible(vm) else None

    def terminate(self, data: Mapping[str, Any]) -> bool:
        self._asked("terminate")
        vm = self._world.vms[data["number"] - 1]
        if not self._visible(vm):
            return False
        if self._faults.busy > 0:
            self._faults.busy -= 1
            raise Busy("it is being made")
        if self._faults.lingers:
            self._world.time.at(self._now + self._faults.lingers, lambda: self._world.end(vm))
        else:
            self._world.end(vm)
        _point("vendor.terminate: done, not answered")
        return True


def _point(name: str) -> None:
    loop = current()
    if loop is not None:
        loop.point_now(name)
