"""Between the engine and the backends: which offers a run can have, the price, and the vendor calls.

Vendor code blocks, so it runs in a bounded pool, never on the loop (D5). A call that does not come back keeps one thread,
not the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import Any, TypeVar

from ...backends import registry
from ...backends.base import Hosts
from ...models.configurations import AnyRun, notes, runnable, unsupported, without_values
from ...models.errors import BackendNotAvailable, NotSupportedYet
from ...models.fleets import FleetConfiguration
from ...models.instances import Guard
from ...models.offers import COLUMNS, OWN_MACHINES, UNAVAILABLE, Missing, OfferView, tabulated
from ...models.runs import Plan
from ...models.stored import Limits
from ...models.yaml_reader import Source
from ...models.yaml_source import validate
from ..names import run_name
from .guards import guard_of, traits_of
from .placement import fleet_names, needs_container

Result = TypeVar("Result")

THREADS = 16
FIRST_ANSWER = 10.0
"""Seconds that a plan without a fitting offer waits for backends that were asked for the first time."""


def checked(configuration: dict[str, Any]) -> AnyRun:
    """The configuration as a model. Raises ConfigurationError naming every fault, NotSupportedYet for what is not built."""
    task = runnable(validate(Source(configuration, "")))
    keys = unsupported(task)
    if keys:
        raise NotSupportedYet(f"not supported yet: {', '.join(keys)}", hint="leave these keys out for now")
    return task


def seconds(duration: int | str | None, default: int = 0) -> int:
    """A duration of the configuration as seconds: 0 for `off`, ``default`` where none was given."""
    return default if duration is None else 0 if isinstance(duration, str) else duration


def make_plan(task: AnyRun, offers: list[OfferView], missing: list[Missing], max_offers: int, project: str) -> Plan:
    """The plan for these offers, cheapest first."""
    configuration = without_values(task.model_dump(mode="json"))
    configuration["name"] = task.name or run_name()
    each = offers[0].price if offers else 0.0
    price = None if each is None else each * task.node_count
    duration = seconds(task.max_duration)
    no_guard = Guard(kind="none", text="no offer fits")
    return Plan(
        configuration=configuration,
        run_name=configuration["name"],
        offers=offers[:max_offers],
        total_offers=len(offers),
        missing=missing,
        price=price,
        max_cost=price * duration / 3600 if duration and price is not None else None,
        guard=guard_of(offers[0], Limits.of(configuration), traits_of(offers[0].backend, project)) if offers else no_guard,
        notes=notes(task),
    )


def find_for_fleet(fleet: FleetConfiguration) -> tuple[list[OfferView], list[Missing]]:
    """(offers that a fleet of cloud instances can have, cheapest first; why other backends have none). Blocks as ``find``."""
    from ...backends.collect import collect
    from ...offers.requirements import Requirements

    wanted = Requirements.of_fleet(fleet)
    for wait in (0.0, FIRST_ANSWER):
        collected = collect(wanted, {"ssh": {name: [] for name in COLUMNS}}, seconds=wait)
        offers = [offer for offer in collected.rows.views() if not offer.is_own]
        if offers or not collected.pending:
            break
    return sorted(offers, key=_later), [line for line in collected.missing if line.backend not in OWN_MACHINES]


Columns = dict[str, dict[str, list[Any]]]
"""Rows of the offers table, by backend."""


def find(
    task: AnyRun, known: Columns, idle: Columns, grows: FleetConfiguration | None = None
) -> tuple[list[OfferView], list[Missing]]:
    """(offers that a run can have, in the order in which they are tried; why other backends have none for it).

    ``known`` are all offers of their backends, ``idle`` are machines that stand beside what their vendors offer. ``grows``: a
    fleet that gets the cloud instances of the run.
    Blocks, seldom for more than a moment: where nothing fits and a backend was never asked before, its first answer is awaited.
    """
    from ...backends.collect import collect  # numpy: a tenth of a second that no start needs to wait for
    from ...offers.requirements import Requirements

    wanted = Requirements.of_task(task)
    for wait in (0.0, FIRST_ANSWER):
        collected = collect(wanted, known, idle, seconds=wait)
        offers, refused = _usable(task, collected.rows.views(), grows)
        if offers or not collected.pending:
            break
    return sorted(offers, key=_later), refused + collected.missing


def _usable(task: AnyRun, offers: list[OfferView], grows: FleetConfiguration | None) -> tuple[list[OfferView], list[Missing]]:
    """(offers that the run can use, why the others cannot be had)."""
    refused: list[Missing] = []
    fleet_s = {offer.key for offer in find_for_fleet(grows)[0]} if grows is not None else set()
    if grows is not None:
        there = [offer for offer in offers if offer.is_own or offer.is_shared]
        offers = there + [offer for offer in offers if not (offer.is_own or offer.is_shared) and offer.key in fleet_s]
    for backend in sorted({offer.backend for offer in offers if offer.origin != "host"}):
        reason = _why_not_local(task) if backend == "local" else "" if grows is not None else _why_not_rented(task)
        if reason:
            offers = [offer for offer in offers if offer.backend != backend or offer.origin == "fleet"]
            refused = [Missing(backend=backend, reason=reason), *refused]
    return offers, refused


def _later(offer: OfferView) -> tuple[bool, bool, float, bool]:
    """The order in which offers are tried: existing machines before new cloud instances, then by price. At the same price
    what is in a fleet comes first: the user set it up for runs."""
    there = offer.is_own or offer.is_shared
    return offer.availability in UNAVAILABLE, not there, inf if offer.price is None else offer.price, offer.origin == "local"


def _why_not_local(task: AnyRun) -> str:
    """Why this machine cannot run the task, whatever its size."""
    if needs_container(task):
        return "it runs processes only, and the run asks for a container: `image` and its kin need a host with Docker"
    if task.node_count > 1:
        return "it is one machine, and the run has several nodes"
    return "it belongs to no fleet" if task.fleets else ""


def _why_not_rented(task: AnyRun) -> str:
    """Why the run gets no new cloud instance, whatever its size."""
    if task.creation_policy == "reuse":
        return "creation_policy is `reuse`: no machine is rented"
    return "the run names `fleets`: no machine is rented beside them, and none of them may grow so far" if task.fleets else ""


def _hosts(backend: str) -> Hosts:
    loaded = registry.load(backend)
    if not isinstance(loaded, Hosts):
        raise BackendNotAvailable(f"{backend} has no machines that are there already")
    return loaded


def _columns(rows: Sequence[dict[str, Any]]) -> Columns:
    by_backend: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_backend.setdefault(row["backend"], []).append(row)
    return {backend: tabulated(of_backend) for backend, of_backend in by_backend.items()}


class Provisioning:
    """Made by the engine; its methods run on its loop. ``shared`` gives the offers of fleets' machines, from the store."""

    def __init__(self, shared: Callable[[], Awaitable[list[dict[str, Any]]]]) -> None:
        self._shared = shared
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="dj-backend")

    async def _blocking(self, function: Callable[..., Result], *args: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def offers(self, task: AnyRun, grows: FleetConfiguration | None = None) -> tuple[list[OfferView], list[Missing]]:
        """As ``find``, with what the store knows of hosts."""
        names = fleet_names(task)
        hosts, idle = [], []
        for row in await self._shared():
            if row["origin"] == "host":
                hosts.append(row)
            elif not names or row["fleet"] in names:
                idle.append(row)
        known = {"ssh": tabulated(hosts)}
        return await self._blocking(find, task, known, _columns(idle), grows)

    async def fleet_offers(self, fleet: FleetConfiguration) -> tuple[list[OfferView], list[Missing]]:
        """As ``find_for_fleet``."""
        return await self._blocking(find_for_fleet, fleet)

    async def create(self, backend: str, identity: str, offer: OfferView) -> dict[str, Any]:
        """Create the instance of a stored intent; idempotent for an identity. Returns the data that the backend needs later."""
        return await self._blocking(_hosts(backend).create_instance, identity, offer)

    async def terminate(self, backend: str, identity: str, data: dict[str, Any]) -> None:
        """End an instance; returns when the vendor says that it is gone."""
        await self._blocking(_hosts(backend).terminate_instance, identity, data)

    def close(self) -> None:
        self._threads.shutdown(wait=False)
