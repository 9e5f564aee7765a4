"""Which machines of fleets a run gets: a function of the store, run inside the transaction that books them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sqlalchemy import Connection

from ...models.configurations import AnyRun
from ...models.errors import NoCapacity
from ...models.offers import UNAVAILABLE, OfferView
from ...models.stored import StoredRun
from ..store import bookings, runs
from ..store.rows import InstanceRow, RunRow

LOOKS = 10.0
"""Seconds for which later runs wait while an earlier run looks for a host."""


def fleet_names(run: AnyRun) -> tuple[str, ...]:
    """The fleets that a run names, without their projects."""
    return tuple(str(each).rpartition("/")[2] for each in run.fleets or ())


def needs_container(run: AnyRun) -> bool:
    """Whether a process cannot do what was asked for."""
    return bool(run.image or run.privileged or run.user or run.registry_auth or run.entrypoint or run.volumes) or (
        run.resources.shm_size is not None
    )


def blocks_needed(run: AnyRun, offer: OfferView, blocks: int) -> int:
    """How many of a host's equal blocks hold what was asked for; more than ``blocks`` if the whole host does not.

    A share of an unknown amount may be all of that amount.
    """
    if blocks == 1:
        return 1
    resources = run.resources
    gpu = (resources.gpu.count.min or 0) if resources.gpu is not None else 0
    shares = [gpu / offer.gpu_count if gpu and offer.gpu_count else 0.0]
    if "cpu" in resources.model_fields_set and resources.cpu.count.min:
        shares.append(_share(resources.cpu.count.min, offer.cpus))
    if "memory" in resources.model_fields_set and resources.memory.min:
        shares.append(_share(resources.memory.min, offer.memory_gb))
    return max(1, math.ceil(max(shares) * blocks - 1e-9))


def _share(wanted: float, size: float | None) -> float:
    return wanted / size if size else 1.0


def somebody_first(connection: Connection, run: RunRow) -> bool:
    """Whether a run that waited for a host looks for one at this moment and comes before this one: by priority, then by age.

    A free host wakes all of these runs. Which of them is the fastest must not matter.
    """
    others = runs.looking(connection, run, LOOKS)
    return any(_turn(*other) < _turn(run.configuration, run.submitted_at) for other in others)


def _turn(configuration: StoredRun, submitted_at: float) -> tuple[int, float]:
    return -configuration.priority, submitted_at


def shared(offers: Sequence[OfferView]) -> list[OfferView]:
    """Those of ``offers`` that are machines of fleets: hosts, and idle cloud instances. What costs is left out where this
    machine would do."""
    here = any(offer.origin == "local" and offer.availability not in UNAVAILABLE for offer in offers)
    return [offer for offer in offers if offer.origin == "host" or (offer.origin == "fleet" and not here)]


def _price(row: InstanceRow) -> float:
    """A machine whose price is not known comes last."""
    return math.inf if row.price is None else float(row.price)


def book_machines(connection: Connection, run: RunRow, attempt_ids: Sequence[str], offers: Sequence[OfferView]) -> None:
    """Book a machine for each attempt, all or nothing; the nodes of one run on different machines of one fleet.

    ``offers`` are those of ``shared`` that fit. Raises NoCapacity that says why not. Called by the fleet reconciler,
    in a write transaction.
    """
    task = run.configuration.task
    fitting = {offer.instance_id for offer in offers}
    machines = [each for each in bookings.usable_machines(connection, run.project) if each.instance.id in fitting]
    if task.fleets:
        machines = [each for each in machines if each.fleet in fleet_names(task)]
    rows = [each.instance for each in machines]
    if needs_container(task):
        without = [row.instance_type for row in rows if not row.data.docker]
        rows = [row for row in rows if row.data.docker]
        if not rows and without:
            raise NoCapacity(f"ssh: the run needs a container, and {', '.join(without)} cannot run Docker")
    free = bookings.free_blocks(connection, rows)
    wanted = {row.id: blocks_needed(task, row.offer, row.data.blocks) for row in rows}
    by_fleet: dict[str, list[InstanceRow]] = {}
    for row in rows:
        if len(free[row.id]) >= wanted[row.id]:
            by_fleet.setdefault(row.fleet_id, []).append(row)
    for candidates in by_fleet.values():
        # The fullest that still has room: big jobs keep finding whole hosts.
        candidates.sort(key=lambda row: (_price(row), len(free[row.id])))
    for candidates in sorted(by_fleet.values(), key=lambda candidates: sum(map(_price, candidates[: len(attempt_ids)]))):
        if len(candidates) >= len(attempt_ids):
            chosen = sorted(candidates[: len(attempt_ids)], key=lambda row: (row.created_at, row.id))
            wishes = [
                bookings.Wish(attempt_id, row.id, wanted[row.id]) for attempt_id, row in zip(attempt_ids, chosen, strict=True)
            ]
            bookings.book(connection, wishes)
            return
    if all(offer.origin != "host" for offer in offers):
        raise NoCapacity("no idle machine of a fleet is free")
    if not rows:
        raise NoCapacity("ssh: no host can be used at the moment; `%dstack fleets` says why")
    if len(attempt_ids) > 1:
        most = max((len(candidates) for candidates in by_fleet.values()), default=0)
        raise NoCapacity(f"ssh: {len(attempt_ids)} free hosts of one fleet are needed, {most} of {len(rows)} are free")
    raise NoCapacity(f"ssh: all {len(rows)} hosts that fit are busy")
