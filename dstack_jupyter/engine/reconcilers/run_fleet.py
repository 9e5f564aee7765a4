"""The fleet reconciler alone decides which instances there are. ``instance.py`` makes and ends the cloud instances."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ...models.errors import NoCapacity
from ...models.fleets import FleetConfiguration
from ...models.offers import NOT_AVAILABLE_YET, OWN_MACHINES, OfferView
from ...models.states import ATTEMPT_END, INSTANCE_ENDING, RUN_END, FleetState, InstanceState
from ..names import identity, new_id
from ..provisioning import placement
from ..provisioning.guards import guard_of, traits_of
from ..runtime.queue import Key, Next
from ..steps import fleet as steps
from ..steps.choice import Try, choose, nothing_left
from ..steps.cloud_fleet import Release, Wait, idle_step
from ..store import cloud_fleets, cloud_instances, moves
from ..store.rows import FleetRow, InstanceRow, RunRow
from . import intents
from .cloud_fleet import guard_of_fleet, guard_times_of, machine_now
from .fleet_parts import FleetHandler, FleetParts

ITS_TURN = 0.1
"""Seconds until a run looks again whether runs before it have a machine."""


class _NotItsTurn(Exception):
    """Another run, which comes first, looks for a host at this moment."""


class FleetReconciler(FleetHandler):
    """Handles the ``fleet`` keys of the work queue, on the engine's loop.

    ``applied`` handles the fleets that no run made. Where engines share a store, ``place`` binds instances of this machine to
    this engine.
    """

    def __init__(self, parts: FleetParts, applied: Callable[[Key], Awaitable[Next]], place: str = "") -> None:
        super().__init__(parts)
        self._applied = applied
        self._place = place

    async def reconcile(self, key: Key) -> Next:
        """Do steps until there is nothing to do but wait. Each step is stored before the next is decided.

        Rows are read once: no step here undoes what others do meanwhile. An attempt books an idle instance, the instance
        reconciler moves cloud instances on; both wake this key.
        """
        fleet, run, attempts, rows = await self._database.read(moves.load_fleet, key.id)
        if run is None:
            return await self._applied(key)
        if fleet.state == FleetState.TERMINATED:
            self._closed(key.id)
            return Next()
        tried = [steps.AttemptNow(row.id, row.state, row.instance_id is not None) for row in attempts]
        owned = {row.id: _Owned.of(row) for row in rows}
        if run.configuration.names_fleets:
            made = await self._database.read(cloud_fleets.made_for, fleet.id, [row.id for row in attempts])
            owned |= {row.id: _Owned.of(row) for row in made}
        idle = run.configuration.limits.keeps
        while True:
            now = [instance.now(fleet.id, keeps=idle > 0) for instance in owned.values()]
            match steps.next_step(tried, now, run.desired, run_ended=run.state in RUN_END):
                case steps.Wait():
                    return (
                        await self._let_idle_go(fleet, idle)
                        if any(instance.shared(fleet.id) for instance in owned.values())
                        else Next()
                    )
                case steps.Want(attempt_id):
                    try:
                        wanted = await self._find_machine(fleet, run, attempt_id, tried, list(owned.values()))
                    except _NotItsTurn:
                        return Next(guard=ITS_TURN)
                    if wanted is None:
                        self._bus.publish(run.id)
                        self._wake(key)
                        return Next()
                    owned[wanted.id] = wanted
                    if wanted.is_cloud:
                        self._wake(Key("instance", wanted.id))
                case steps.Create(instance_id):
                    await self._create(owned[instance_id])
                    return Next()
                case steps.Release(instance_id):
                    await self._release(owned[instance_id])
                case steps.Keep(instance_id):
                    await self._keep(owned[instance_id])
                case steps.Terminate(instance_id):
                    instance = owned[instance_id]
                    await self._provisioning.terminate(instance.backend, instance.identity, instance.data)
                    await self._move(instance, InstanceState.TERMINATED)
                    self._bus.publish_events()
                case steps.Close():
                    await self._database.write(moves.close_fleet, key.id)
                    self._closed(key.id)
                    return Next()

    async def _release(self, instance: _Owned, why: str = "its job has ended") -> None:
        if instance.is_cloud:
            await self._database.write(cloud_instances.let_go, instance.id, why)
            instance.state = InstanceState.TERMINATING
            self._wake(Key("instance", instance.id))
        else:
            await self._move(instance, InstanceState.TERMINATING)

    async def _keep(self, instance: _Owned) -> None:
        assert instance.attempt_id is not None
        await self._database.write(cloud_fleets.keep, instance.id, instance.attempt_id)
        instance.attempt_id = None
        self._wake(Key("fleet", instance.fleet_id))
        self._bus.publish_events()
        self._hosts_changed()

    async def _let_idle_go(self, fleet: FleetRow, idle: int) -> Next:
        """End the machines that had no job for long enough, unless a run booked them meanwhile."""
        rows, now = await self._database.read(cloud_fleets.shared_of, fleet.id)
        free = [machine_now(row, now) for row in rows]
        match idle_step([each for each in free if each.free], float(idle), surplus=len(free)):
            case Release(instance_id, why):
                await self._database.write(cloud_fleets.let_go_free, instance_id, why)
                self._wake(Key("instance", instance_id))
                self._wake(Key("fleet", fleet.id))
                return Next()
            case Wait(seconds):
                return Next() if seconds is None else Next(guard=max(0.05, seconds))

    async def _move(self, instance: _Owned, state: InstanceState) -> None:
        await self._database.write(moves.move_instance, instance.id, state)
        instance.state = state

    async def _find_machine(
        self, fleet: FleetRow, run: RunRow, attempt_id: str, tried: list[steps.AttemptNow], owned: list[_Owned]
    ) -> _Owned | None:
        """Find a machine for an attempt: book those of a fleet, or store the intent of an instance of its own.

        None when the attempt was booked, or ended since nothing can be had (either is stored), or ended meanwhile. Raises
        _NotItsTurn where another run has to look first.
        """
        growing = await self._growing(run, tried, owned)
        of = growing or fleet
        may_grow = FleetConfiguration.model_validate(growing.configuration) if growing is not None else None
        offers, missing = await self._provisioning.offers(run.configuration.task, may_grow)
        waiting = [now.id for now in tried if now.state not in ATTEMPT_END and not now.booked]
        reasons: list[str] = []
        try:
            begun = any(each.is_cloud and each.attempt_id in waiting and each.state not in INSTANCE_ENDING for each in owned)
            if not begun and (shared := placement.shared(offers)):
                if await self._database.read(placement.somebody_first, run):
                    raise _NotItsTurn
                try:
                    await self._database.write(intents.book, run, waiting, shared)
                    for each in waiting:
                        self._wake(Key("attempt", each))
                    self._hosts_changed()
                    return None
                except NoCapacity as error:
                    reasons.append(error.message)
            unfinished = {now.id for now in tried if now.state not in ATTEMPT_END}
            tries = [each.tried for each in owned if each.is_cloud and each.attempt_id in unfinished]
            own = [offer for offer in offers if not offer.is_shared]
            if growing is not None and may_grow is not None and may_grow.placement == "cluster":
                there = await self._database.read(cloud_fleets.place_of, growing.id)
                own = [offer for offer in own if there in (None, (offer.backend, offer.region))]
            choice = choose(own, tries, nodes=len(unfinished))
            if choice.release:
                for instance in owned:
                    if instance.is_cloud and instance.attempt_id in unfinished and instance.state not in INSTANCE_ENDING:
                        await self._release(instance, choice.release)
                return None
            if choice.offer is None:
                explained = [line for line in missing if line.reason != NOT_AVAILABLE_YET]
                reasons += [f"{line.backend}: {line.reason}" for line in explained]
                raise NoCapacity(nothing_left(tries, reasons))
            offer = choice.offer
            instance_id = new_id()
            name = identity(self._installation, instance_id)
            if growing is not None and may_grow is not None:
                guard, times = guard_of_fleet(may_grow, offer, fleet.project), guard_times_of(may_grow)
                data = await self._database.write(intents.grow, growing, run, attempt_id, instance_id, name, offer, guard, times)
            else:
                guard = guard_of(offer, run.configuration.limits, traits_of(offer.backend, fleet.project))
                data = await self._database.write(
                    intents.want, fleet, run, attempt_id, instance_id, name, offer, guard, self._place
                )
        except NoCapacity as error:
            await self._database.write(intents.without, waiting, error.message)
            self._wake(Key("run", run.id))
            return None
        if data is None:
            return None
        return _Owned(instance_id, of.id, InstanceState.PENDING, attempt_id, offer.backend, name, offer, data)

    async def _growing(self, run: RunRow, tried: list[steps.AttemptNow], owned: list[_Owned]) -> FleetRow | None:
        """The named fleet that grows for the run; None if the run names no fleet that may grow so far."""
        if not run.configuration.names_fleets or run.configuration.only_reuses:
            return None
        names = placement.fleet_names(run.configuration.task)
        waiting = {now.id for now in tried if now.state not in ATTEMPT_END and not now.booked}
        begun = {
            each.attempt_id: each.fleet_id for each in owned if each.attempt_id in waiting and each.state not in INSTANCE_ENDING
        }
        nodes = len(waiting) - len(begun)
        growable = await self._database.read(cloud_fleets.growable, run.project, names, nodes)
        return next((row for row in growable if not begun or row.id in begun.values()), None)

    async def _create(self, instance: _Owned) -> None:
        data = await self._provisioning.create(instance.backend, instance.identity, instance.offer)
        await self._database.write(intents.created, instance.id, {**instance.data, **data})
        if instance.attempt_id is not None:
            self._wake(Key("attempt", instance.attempt_id))


@dataclass(slots=True)
class _Owned:
    """An instance as the reconciler moves it on, in step with its row."""

    id: str
    fleet_id: str
    state: InstanceState
    attempt_id: str | None
    backend: str
    identity: str
    offer: OfferView
    data: dict[str, Any]
    """The data beside the columns: a backend gets back what it returned."""
    verdict: str = ""
    message: str = ""

    @classmethod
    def of(cls, row: InstanceRow) -> _Owned:
        return cls(
            row.id,
            row.fleet_id,
            row.state,
            row.attempt_id,
            row.backend,
            row.identity,
            row.offer,
            dict(row.data.raw),
            row.data.verdict,
            row.message,
        )

    @property
    def is_cloud(self) -> bool:
        return self.backend not in OWN_MACHINES

    def shared(self, fleet_id: str) -> bool:
        """Whether the instance is of this fleet, has not ended, and is free for any run."""
        return self.attempt_id is None and self.state not in INSTANCE_ENDING and self.fleet_id == fleet_id

    def now(self, fleet_id: str, *, keeps: bool) -> steps.InstanceNow:
        elsewhere = self.fleet_id != fleet_id
        return steps.InstanceNow(self.id, self.state, self.attempt_id, self.is_cloud, keeps and self.is_cloud, elsewhere)

    @property
    def tried(self) -> Try:
        return Try(self.offer, self.state not in INSTANCE_ENDING, self.verdict, self.message)
