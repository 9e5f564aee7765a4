"""The fleet reconciler: the only one that creates and ends instances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row

from ..models.configurations import run_configuration
from ..models.errors import NoCapacity
from ..models.runs import NOT_AVAILABLE_YET, OfferView
from ..models.states import AttemptState, Desired, FleetState, InstanceState, Reason
from .bus import Bus
from .names import identity, new_id
from .provisioning import Provisioning, guard_of
from .queue import Key, Next
from .steps import fleet as steps
from .steps.attempt import End
from .store import moves
from .store.database import Database


class FleetReconciler:
    """Handles the ``fleet`` keys of the work queue, on the engine's loop. ``closed`` hears of each fleet that is done."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        provisioning: Provisioning,
        installation: str,
        wake: Callable[[Key], None],
        closed: Callable[[str], None],
    ) -> None:
        self._database = database
        self._bus = bus
        self._provisioning = provisioning
        self._installation = installation
        self._wake = wake
        self._closed = closed

    async def reconcile(self, key: Key) -> Next:
        """Steps until there is nothing to do but wait. Each step is stored before the next is thought of.

        Read once: nobody else moves these instances but an attempt that books an idle one, which no step here undoes.
        """
        fleet, run, attempts, rows = await self._database.read(moves.load_fleet, key.id)
        if fleet.state == FleetState.TERMINATED:
            self._closed(key.id)
            return Next()
        tried = [steps.AttemptNow(row.id, AttemptState(row.state)) for row in attempts]
        rented = {row.id: _Rented.of(row) for row in rows}
        while True:
            now = [steps.InstanceNow(found.id, found.state, found.attempt_id) for found in rented.values()]
            match steps.next_step(tried, now, Desired(run.desired)):
                case steps.Wait():
                    return Next()
                case steps.Want(attempt_id):
                    wanted = await self._want(fleet, run, attempt_id)
                    if wanted is None:
                        self._bus.publish(run.id)
                        self._wake(key)
                        return Next()
                    rented[wanted.id] = wanted
                case steps.Create(instance_id):
                    await self._create(rented[instance_id])
                    return Next()
                case steps.Release(instance_id):
                    await self._move(rented[instance_id], InstanceState.TERMINATING)
                case steps.Terminate(instance_id):
                    found = rented[instance_id]
                    await self._provisioning.terminate(found.backend, found.identity, found.data)
                    await self._move(found, InstanceState.TERMINATED)
                    self._bus.publish_events()
                case steps.Close():
                    await self._database.write(moves.close_fleet, key.id)
                    self._closed(key.id)
                    return Next()

    async def _move(self, found: _Rented, state: InstanceState) -> None:
        await self._database.write(moves.move_instance, found.id, state)
        found.state = state

    async def _want(self, fleet: Row[Any], run: Row[Any], attempt_id: str) -> _Rented | None:
        """Store the intent of an instance; None if there can be none, which ends the attempt."""
        offers, missing = await self._provisioning.offers(run.configuration)
        try:
            if not offers:
                told = [line for line in missing if line.reason != NOT_AVAILABLE_YET]
                why = "; ".join(f"{line.backend}: {line.reason}" for line in told) or "no backend has an offer"
                raise NoCapacity(f"no offer fits ({why})")
            instance_id = new_id()
            name = identity(self._installation, instance_id)
            data = await self._database.write(_want, fleet, run, attempt_id, instance_id, name, offers[0])
        except NoCapacity as error:
            end = End(AttemptState.FAILED, Reason.NO_CAPACITY, error.message)
            await self._database.write(moves.end_attempt, attempt_id, end)
            return None
        return _Rented(instance_id, InstanceState.PENDING, attempt_id, offers[0].backend, name, offers[0], data)

    async def _create(self, found: _Rented) -> None:
        data = await self._provisioning.create(found.backend, found.identity, found.offer)
        await self._database.write(_created, found.id, {**found.data, **data})
        self._wake(Key("attempt", found.attempt_id))


@dataclass(slots=True)
class _Rented:
    """An instance as the reconciler moves it on, in step with its row."""

    id: str
    state: InstanceState
    attempt_id: str
    backend: str
    identity: str
    offer: OfferView
    data: dict[str, Any]

    @classmethod
    def of(cls, row: Row[Any]) -> _Rented:
        offer = OfferView(**row.offer)
        return cls(row.id, InstanceState(row.state), row.attempt_id, row.backend, row.identity, offer, row.data)


def _want(
    connection: Connection,
    fleet: Row[Any],
    run: Row[Any],
    attempt_id: str,
    instance_id: str,
    name: str,
    offer: OfferView,
) -> dict[str, Any]:
    gpus = _free_gpus(connection, run, offer)
    moves.want_instance(
        connection,
        instance_id=instance_id,
        identity=name,
        attempt_id=attempt_id,
        fleet=fleet,
        run=run,
        offer=offer,
        guard=guard_of(offer, run.configuration),
        host=offer.backend,
        gpus=gpus,
    )
    return {"gpus": gpus}


def _free_gpus(connection: Connection, run: Row[Any], offer: OfferView) -> list[int]:
    """The GPUs of this machine that the run gets: none unless it asks for some. Raises NoCapacity.

    Only `local` shares its GPUs; a rented machine belongs to one run and has its GPUs whole.
    """
    gpu = run_configuration(run.configuration).resources.gpu
    count = (gpu.count.min or 0) if gpu is not None else 0
    if offer.backend != "local" or count == 0:
        return []
    taken = moves.claimed_gpus(connection, offer.backend)
    free = [number for number in range(offer.gpu_count) if number not in taken]
    if len(free) < count:
        raise NoCapacity(f"{count} GPUs are asked for, {len(free)} of {offer.gpu_count} are free")
    return free[:count]


def _created(connection: Connection, instance_id: str, data: dict[str, Any]) -> None:
    moves.move_instance(connection, instance_id, InstanceState.IDLE, data=data)
