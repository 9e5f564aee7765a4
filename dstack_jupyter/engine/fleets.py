"""The fleet reconciler: the only one that creates and ends instances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row

from ..models.configurations import TaskConfiguration
from ..models.errors import NoCapacity
from ..models.runs import Guard, OfferView
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
        """Steps until there is nothing to do but wait. Each step is stored before the next is thought of."""
        while True:
            fleet, run, attempts, instances = await self._database.read(moves.load_fleet, key.id)
            if fleet.state == FleetState.TERMINATED:
                self._closed(key.id)
                return Next()
            step = steps.next_step(
                [steps.AttemptNow(row.id, AttemptState(row.state)) for row in attempts],
                [steps.InstanceNow(row.id, InstanceState(row.state), row.attempt_id) for row in instances],
                Desired(run.desired),
            )
            rows = {row.id: row for row in instances}
            match step:
                case steps.Wait():
                    return Next()
                case steps.Want(attempt_id):
                    await self._want(fleet, run, attempt_id)
                case steps.Create(instance_id):
                    await self._create(rows[instance_id])
                case steps.Release(instance_id):
                    await self._database.write(moves.move_instance, instance_id, InstanceState.TERMINATING)
                case steps.Terminate(instance_id):
                    row = rows[instance_id]
                    await self._provisioning.terminate(row.backend, row.identity, row.data)
                    await self._database.write(moves.move_instance, instance_id, InstanceState.TERMINATED)
                case steps.Close():
                    await self._database.write(moves.close_fleet, key.id)
                    self._closed(key.id)
                    return Next()
            self._bus.publish(run.id)

    async def _want(self, fleet: Row[Any], run: Row[Any], attempt_id: str) -> None:
        offers, missing = await self._provisioning.offers(run.configuration)
        try:
            if not offers:
                why = "; ".join(f"{line.backend}: {line.reason}" for line in missing) or "no backend has an offer"
                raise NoCapacity(f"no offer fits ({why})")
            instance_id = new_id()
            name = identity(self._installation, instance_id)
            await self._database.write(_want, fleet, run, attempt_id, instance_id, name, offers[0])
        except NoCapacity as error:
            end = End(AttemptState.FAILED, Reason.NO_CAPACITY, error.message)
            await self._database.write(moves.end_attempt, attempt_id, end)

    async def _create(self, instance: Row[Any]) -> None:
        data = await self._provisioning.create(instance.backend, instance.identity, OfferView(**instance.offer))
        await self._database.write(_created, instance.id, data)
        self._wake(Key("attempt", instance.attempt_id))


def _want(
    connection: Connection,
    fleet: Row[Any],
    run: Row[Any],
    attempt_id: str,
    instance_id: str,
    name: str,
    offer: OfferView,
) -> None:
    guard: Guard = guard_of(offer, run.configuration)
    moves.want_instance(
        connection,
        instance_id=instance_id,
        identity=name,
        attempt_id=attempt_id,
        fleet=fleet,
        run=run,
        offer=offer,
        guard=guard,
        host=offer.backend,
        gpus=_free_gpus(connection, run, offer),
    )


def _free_gpus(connection: Connection, run: Row[Any], offer: OfferView) -> list[int]:
    """The GPUs of this machine that the run gets: none unless it asks for some. Raises NoCapacity.

    Only `local` shares its GPUs; a rented machine belongs to one run and has its GPUs whole.
    """
    gpu = TaskConfiguration.model_validate(run.configuration).resources.gpu
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
