"""A vendor in memory, in virtual time: machines by number, calls that may be cut before and after they take effect, and faults.

Each fault is a field of ``faults.Faults``. Calls are made at once, so what takes time at a vendor shows as what it tells later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dstack_jupyter.backends import registry
from dstack_jupyter.backends.base import CloudResource, Feed, Instance, InstanceRequest, ResourceRequest, Traits
from dstack_jupyter.models.backends import PermissionView
from dstack_jupyter.models.errors import (
    BackendError,
    BackendUnreachable,
    BadCredentials,
    Busy,
    NoCapacity,
    NoQuota,
    NotAtVendor,
    RateLimited,
    Refused,
    UnknownOutcome,
)
from dstack_jupyter.models.offers import OfferView

from .faults import VM
from .loop import Crashed, current
from .world import World

NAME = "simulated"
LATE = 2.0
"""Seconds after which a call that was on its way when its engine died takes effect."""
BOOT = 6.0
"""Seconds from a create to a machine that has its address."""
TRAITS = Traits(resend="look", settles=20.0, absent_after=60.0, ready_within=90.0, user_data=1 << 16)
OFFERS = (("here", "sim-1", 1.0), ("there", "sim-1", 1.5), ("there", "sim-2", 2.0))
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
        self._cloud = RestartingCloud(_world) if _world.restarts else SimulatedCloud(_world)

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
            for region, kind, price in OFFERS
        ]
        return {name: [offer[name] for offer in offers] for name in offers[0]}

    def check(self) -> list[PermissionView]:
        return []

    def cloud(self, project: str = "main") -> SimulatedCloud:
        return self._cloud

    def checked(self) -> tuple[list[PermissionView], float] | None:
        return None


class SimulatedCloud:
    """``backends.base.Cloud``. With ``resend`` "look" a second create is a second machine; with "token" it gives the first."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._faults = world.faults
        self.traits = replace(TRAITS, resend=world.resend)  # type: ignore[arg-type]

    @property
    def account_id(self) -> str:
        if self._now < self._faults.another_account_until:
            return "another"
        return "renewed" if self._faults.renewed_key else "one"

    @property
    def _now(self) -> float:
        return float(self._world.time.now)

    def _hits(self, fault: str) -> bool:
        """Whether a fault that is counted happens to this call."""
        left = getattr(self._faults, fault)
        if left > 0:
            setattr(self._faults, fault, left - 1)
            self._world.changes += 1
            self._faults.over = self._now
        return bool(left > 0)

    def _asked(self, name: str) -> None:
        _point(f"vendor.{name}: asked")
        if self._now < max(self._faults.unreachable_until, self._faults.wrong_key_until, self._faults.another_account_until):
            self._faults.over = self._now
        if self._now < self._faults.unreachable_until:
            raise BackendUnreachable("no network")
        if self._now < self._faults.wrong_key_until:
            raise BadCredentials("the key is not known")
        if self._hits("limited"):
            raise RateLimited("too many requests", delay=3.0)
        if self._hits("broken"):
            raise BackendError("502, and no word of what was done")

    def _sent(self, name: str, effect: Callable[[], Any]) -> Any:
        """What changes something. Who dies while it is on its way has sent it: it takes effect all the same."""
        loop = current()
        if loop is not None and not loop.passes(f"vendor.{name}: on its way"):
            self._world.time.at(self._now + LATE, effect)
            raise Crashed
        found = effect()
        _point(f"vendor.{name}: done, not answered")
        return found

    # --- things ---------------------------------------------------------------------------------------------------------

    def needs(self, order: InstanceRequest) -> Sequence[ResourceRequest]:
        return [
            ResourceRequest("key", f"{order.identity.rpartition('-')[0]}-key", shared=True, data={"public_key": order.login_key}),
            ResourceRequest("disk", f"{order.identity}-disk"),
        ]

    def attach(self, need: ResourceRequest) -> CloudResource:
        self._asked("attach")
        self._world.on_attach(need.identity)
        if not need.shared and self._hits("no_room"):
            raise NoQuota("no more disks")

        began = self._now

        def effect() -> None:
            if self._now > began:
                self._world.late_things.add(need.identity)
            if need.identity not in self._world.resources:
                self._world.resources[need.identity] = need.kind
                self._world.changes += 1

        self._sent("attach", effect)
        if self._hits("lost_things") or (need.kind == "disk" and self._hits("lost_disks")):
            raise UnknownOutcome("no answer in time")
        return CloudResource(need.kind, need.identity, need.identity)

    def list_attached(self, installation: str) -> list[CloudResource]:
        self._asked("list_attached")
        return [CloudResource(kind, identity, identity) for identity, kind in self._world.resources.items()]

    def detach(self, resource: CloudResource) -> None:
        self._asked("detach")
        if any(vm.identity == resource.identity.removesuffix("-disk") and vm.gone is None for vm in self._world.vms):
            raise Busy("a machine has it")
        if self._hits("held"):
            raise Busy("it is still being let go")

        def effect() -> None:
            if self._world.resources.pop(resource.id, None) is not None:
                self._world.changes += 1

        self._sent("detach", effect)

    # --- machines -------------------------------------------------------------------------------------------------------

    def create(self, order: InstanceRequest) -> Instance:
        if not order.first and (there := self.find(order.identity)):
            return there[0]
        self._asked("create")
        self._world.on_create(order.identity)
        place = f"{order.offer.region} {order.offer.instance_type}"
        if place in self._faults.sold_out or not self._faults.sold_out_after.get(place, 1):
            raise NoCapacity(f"{place} is sold out")
        if place in self._faults.sold_out_after:
            self._faults.sold_out_after[place] -= 1
        if self._hits("refused"):
            raise Refused("there is no such key")
        asked = self._now
        if self._hits("late_creates"):
            self._world.time.at(asked + self._faults.late_by, lambda: self._make(order, asked))
            raise UnknownOutcome("no answer in time")
        vm = self._sent("create", lambda: self._make(order, asked))
        if self._hits("twins"):
            self._made(order, asked, twin=True)
            raise UnknownOutcome("no answer in time")
        if self._hits("lost_answers"):
            raise UnknownOutcome("no answer in time")
        return self._told(vm)

    def _make(self, order: InstanceRequest, asked: float) -> VM:
        if self._world.resend == "token":
            for vm in self._world.vms:
                if vm.identity == order.identity:
                    return vm
        return self._made(order, asked)

    def _made(self, order: InstanceRequest, asked: float, *, twin: bool = False) -> VM:
        vm = VM(order.identity, self._now, place=order.offer.region, asked=asked, twin=twin)
        vm.dead, vm.bad_boot = self._hits("dead_on_arrival"), self._hits("bad_boots")
        self._world.make(vm)
        return vm

    def _told(self, vm: VM) -> Instance:
        booted = self._now >= vm.made + BOOT
        word, said = ("running", "on") if booted else ("starting", "booting")
        if vm.off or vm.ending:
            word, said = ("ending", "leaving") if vm.ending else ("stopped", "off")
        return Instance(
            identity=vm.identity,
            data={"number": vm.number},
            status=word,  # type: ignore[arg-type]
            raw_status=said,
            region=vm.place,
            address=vm.identity if booted else "",
            created_at=vm.made,
        )

    def _visible(self, vm: VM) -> bool:
        if vm.gone is not None or self._now < max(self._faults.flicker_until, self._faults.another_account_until):
            return False
        if vm.ending and self._now < vm.flickers_until:
            return False
        return self._now >= vm.made + self._faults.hidden_for

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
        if self._hits("busy"):
            raise Busy("it is being made")
        if self._hits("ignored_deletes"):
            return True
        self._sent("terminate", lambda: self._leave(vm))
        if self._hits("lost_deletes"):
            raise BackendError("no answer in time")
        return True

    def _leave(self, vm: VM) -> None:
        if vm.gone is None and self._hits("returns"):
            back = self._now + 30.0
            again = replace(vm, made=back, number=0, twin=True)
            self._world.time.at(back, lambda: self._world.make(again))
        if not self._faults.lingers:
            self._world.end(vm)
        elif not vm.ending and vm.gone is None:
            vm.ending, vm.flickers_until = True, self._now + self._faults.flickers_at_the_end
            self._world.changes += 1
            self._world.time.at(self._now + self._faults.lingers, lambda: self._world.end(vm))


class RestartingCloud(SimulatedCloud):
    """``backends.base.Restarts`` too. A start takes ``BOOT`` seconds."""

    def start(self, data: Mapping[str, Any]) -> None:
        self._asked("start")
        vm = self._world.vms[data["number"] - 1]
        if vm.gone is not None:
            raise NotAtVendor("there is none")
        if self._hits("no_way"):
            raise BackendUnreachable("no network")
        if self._hits("no_starts"):
            raise Refused("it is kept as it is")
        if self._hits("not_yet"):
            raise Busy("it is being stopped")
        if self._hits("stays_off"):
            return
        self._sent("start", lambda: self._world.time.at(self._now + BOOT, lambda: self._world.power_on(vm)))


def _point(name: str) -> None:
    loop = current()
    if loop is not None:
        loop.point_now(name)
