"""The transactions by which a run's fleet gets machines, each all or nothing. ``run_fleet.FleetReconciler`` uses them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from ...models.errors import NoCapacity
from ...models.instances import Guard
from ...models.offers import OfferView
from ...models.states import AttemptState, InstanceState, Reason
from ..provisioning import placement
from ..provisioning.orders import guard_times
from ..steps.attempt import End
from ..store import cloud_fleets, cloud_instances, moves
from ..store.rows import FleetRow, RunRow


def book(connection: Connection, run: RunRow, waiting: list[str], offers: list[OfferView]) -> None:
    """Book machines of fleets, unless the run ended since the read: nobody would free the bookings of an ended attempt."""
    if moves.all_wait(connection, waiting):
        placement.book_machines(connection, run, waiting, offers)


def without(connection: Connection, waiting: list[str], why: str) -> None:
    """End all attempts at once: the rest of a half-ended run could still book a machine."""
    for attempt_id in waiting:
        moves.end_attempt(connection, attempt_id, End(AttemptState.FAILED, Reason.NO_CAPACITY, why))


def want(
    connection: Connection,
    fleet: FleetRow,
    run: RunRow,
    attempt_id: str,
    instance_id: str,
    name: str,
    offer: OfferView,
    guard: Guard,
    place: str,
) -> dict[str, Any] | None:
    """Store the intent of an instance; None if the run ended since the read."""
    if not moves.all_wait(connection, [attempt_id]):
        return None
    bound = place if offer.origin == "local" else ""
    host = bound[:16] or offer.backend
    gpus = _free_gpus(connection, run, offer, host)
    is_cloud_instance = offer.origin != "local"
    data: dict[str, Any] = guard_times(run.configuration.limits) if is_cloud_instance else {"place": bound} if bound else {}
    moves.want_instance(
        connection,
        instance_id=instance_id,
        identity=name,
        attempt_id=attempt_id,
        fleet=fleet,
        run_id=run.id,
        offer=offer,
        guard=guard,
        host=host,
        gpus=gpus,
        data=data,
    )
    if is_cloud_instance:
        cloud_instances.want(connection, instance_id)
    return {"gpus": gpus, **data}


def grow(
    connection: Connection,
    fleet: FleetRow,
    run: RunRow,
    attempt_id: str,
    instance_id: str,
    name: str,
    offer: OfferView,
    guard: Guard,
    times: dict[str, Any],
) -> dict[str, Any] | None:
    """Store the intent of a machine of a user's fleet for an attempt; None if the run ended or the fleet has no room."""
    if not moves.all_wait(connection, [attempt_id]):
        return None
    wanted = cloud_fleets.want(
        connection,
        fleet,
        instance_id=instance_id,
        identity=name,
        offer=offer,
        guard=guard,
        data=times,
        attempt_id=attempt_id,
        run_id=run.id,
    )
    return times if wanted else None


def _free_gpus(connection: Connection, run: RunRow, offer: OfferView, host: str) -> list[int]:
    """The GPUs of this machine that the run gets: none unless it asks for some. Raises NoCapacity.

    Only `local` shares its GPUs: a cloud instance belongs to one run, with all its GPUs.
    """
    gpu = run.configuration.task.resources.gpu
    count = (gpu.count.min or 0) if gpu is not None else 0
    if offer.origin != "local" or count == 0:
        return []
    taken = moves.claimed_gpus(connection, host)
    free = [number for number in offer.device_numbers if number not in taken]
    if len(free) < count:
        raise NoCapacity(f"{count} GPUs are asked for, {len(free)} of {offer.gpu_count} are free")
    return free[:count]


def created(connection: Connection, instance_id: str, data: dict[str, Any]) -> None:
    moves.move_instance(connection, instance_id, InstanceState.IDLE, data=data)
