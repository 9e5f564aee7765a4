"""The reconciler of fleets of cloud instances decides how many there are. ``instance.py`` makes and ends them, runs book them."""

from __future__ import annotations

from functools import partial
from typing import Any

from ...models.durations import format_duration
from ...models.fleets import FleetConfiguration
from ...models.instances import Guard
from ...models.offers import NOT_AVAILABLE_YET, OfferView
from ...models.states import INSTANCE_ENDING, FleetState, InstanceState
from ...models.stored import Limits
from ..names import identity, new_id
from ..provisioning.guards import guard_of, traits_of
from ..provisioning.orders import guard_times
from ..runtime.queue import Key, Next
from ..steps import cloud_fleet as steps
from ..steps.choice import Choice, Try, choose, nothing_left
from ..store import cloud_fleets as store
from ..store.rows import InstanceRow
from .fleet_parts import FleetHandler, FleetParts

IDLE = 3 * 24 * 3600
"""Seconds that a machine of a fleet may have no job, where its fleet sets no idle_duration: dstack's default."""
AGAIN = 60.0
"""Seconds until a fleet that is short of machines looks for offers again; a failed offer waits ``store.FORGETS``."""


class CloudFleetReconciler(FleetHandler):
    """Handles the ``fleet`` keys of fleets that users applied, on the engine's loop."""

    def __init__(self, parts: FleetParts) -> None:
        super().__init__(parts)
        self._idle: dict[str, frozenset[str]] = {}

    async def reconcile(self, key: Key) -> Next:
        """Store one step after the other until there is nothing to do but wait."""
        while True:
            loaded = await self._database.read(store.load, key.id)
            if loaded.fleet.kind != "cloud" or loaded.fleet.state == FleetState.TERMINATED:
                return Next()
            self._tell(loaded)
            fleet = FleetConfiguration.model_validate(loaded.fleet.configuration)
            machines = [machine_now(each, loaded.now) for each in loaded.machines]
            match steps.next_step(machines, size_of(fleet), deleted=loaded.fleet.state != FleetState.ACTIVE):
                case steps.Want():
                    if not await self._want(loaded, fleet):
                        return Next(guard=AGAIN)
                case steps.Release(instance_id, why):
                    await self._let_go(instance_id, why)
                case steps.Wait(seconds):
                    if loaded.fleet.message:
                        await self._database.write(store.say, loaded.fleet, "")
                        self._bus.publish_all()
                    return Next() if seconds is None else Next(guard=max(0.05, seconds))
                case steps.Close():
                    await self._database.write(store.close, loaded.fleet)
                    self._idle.pop(key.id, None)
                    self._bus.publish_events()
                    self._bus.publish_all()
                    self._closed(key.id)
                    return Next()

    def _tell(self, loaded: store.Loaded) -> None:
        idle = frozenset(
            each.instance.id for each in loaded.machines if each.instance.state == InstanceState.IDLE and not each.taken
        )
        if idle != self._idle.get(loaded.fleet.id, frozenset()):
            self._idle[loaded.fleet.id] = idle
            self._hosts_changed()

    async def _let_go(self, instance_id: str, why: str, *, spared: bool = True) -> None:
        """End a machine, unless a run booked it since the read."""
        await self._database.write(partial(store.let_go_free, instance_id=instance_id, why=why, spared=spared))
        self._wake(Key("instance", instance_id))
        self._bus.publish_events()

    async def _want(self, loaded: store.Loaded, fleet: FleetConfiguration) -> bool:
        """Store the intent of one more machine, of the next offer; False if no offer is left for now."""
        offers, missing = await self._provisioning.fleet_offers(fleet)
        tries = [_tried(each) for each in loaded.machines if each.instance.state not in INSTANCE_ENDING or _failed(each.instance)]
        choice = chosen(offers, tries, fleet)
        if choice.release:
            for each in loaded.machines:
                if each.instance.state not in INSTANCE_ENDING:
                    await self._let_go(each.instance.id, choice.release, spared=False)
            return True
        if choice.offer is None:
            reasons = [f"{line.backend}: {line.reason}" for line in missing if line.reason != NOT_AVAILABLE_YET]
            why = nothing_left([each for each in tries if not each.alive], reasons)
            if why != loaded.fleet.message:
                await self._database.write(store.say, loaded.fleet, why)
                self._bus.publish_events()
                self._bus.publish_all()
            return False
        instance_id = new_id()
        name = identity(self._installation, instance_id)
        offer = choice.offer
        guard = guard_of_fleet(fleet, offer, loaded.fleet.project)

        def write(connection: Any) -> bool:
            return store.want(
                connection,
                loaded.fleet,
                instance_id=instance_id,
                identity=name,
                offer=offer,
                guard=guard,
                data=guard_times_of(fleet),
            )

        if await self._database.write(write):
            self._wake(Key("instance", instance_id))
            self._bus.publish_events()
            self._bus.publish_all()
        return True


def size_of(fleet: FleetConfiguration) -> steps.Size:
    assert fleet.nodes is not None
    return steps.Size(fleet.nodes.min, fleet.nodes.wanted, fleet.nodes.max, idle_of(fleet.idle_duration))


def idle_of(idle_duration: int | str | None) -> float | None:
    """Seconds that a machine of a fleet may have no job; None: for ever."""
    return None if isinstance(idle_duration, str) else float(IDLE if idle_duration is None else idle_duration)


def guard_times_of(fleet: FleetConfiguration) -> dict[str, int]:
    """The guard times of a fleet's machine. The machine outlives any run, so no age ends it."""
    idle = fleet.idle_duration
    return guard_times(Limits(idle_duration="off" if isinstance(idle, str) else IDLE if idle is None else idle))


def guard_of_fleet(fleet: FleetConfiguration, offer: OfferView, project: str) -> Guard:
    """Which guard ends a machine of this fleet (D7)."""
    idle = idle_of(fleet.idle_duration)
    until = "and ends none" if idle is None else f"and ends what is beyond that and had no job for {format_duration(int(idle))}"
    kept = f"the engine keeps the fleet's least number of machines {until}; `%dstack fleets delete` ends all"
    return guard_of(offer, Limits(idle_duration="off" if idle is None else int(idle)), traits_of(offer.backend, project), kept)


def chosen(offers: list[OfferView], tries: list[Try], fleet: FleetConfiguration) -> Choice:
    """The next offer for a fleet; the machines of a cluster are in one region of one backend."""
    near = tries if fleet.placement == "cluster" else [each for each in tries if not each.alive]
    choice = choose(offers, near)
    if choice.release and any(each.used for each in tries):
        return Choice()  # a cluster at work stays where it is, and short of machines
    return choice


def _failed(row: InstanceRow) -> bool:
    """Whether a machine is gone that was needed and never became usable."""
    return row.started_at is None and not row.data.spared


def _tried(machine: store.FleetMachine) -> Try:
    row = machine.instance
    alive = row.state not in INSTANCE_ENDING
    return Try(row.offer, alive, row.data.verdict, row.message, used=alive and machine.taken)


def machine_now(machine: store.FleetMachine, now: float) -> steps.MachineNow:
    """A machine of a fleet as the steps see it."""
    row = machine.instance
    since = machine.idle_at if machine.idle_at is not None else row.started_at
    return steps.MachineNow(row.id, row.state, not machine.taken, None if since is None else max(0.0, now - since))
