"""The moves of attempts, instances and fleets: each one a guarded update, with its event, and the run's state derived anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, Select, Update, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningUpdate

from ...models.errors import NoCapacity
from ...models.instances import Guard
from ...models.money import format_dollars
from ...models.offers import OfferView
from ...models.states import (
    ATTEMPT_END,
    FLEET_END,
    INSTANCE_END,
    RUN_END,
    AttemptState,
    Desired,
    FleetState,
    InstanceState,
    RunState,
)
from ...models.stored import StoredRun
from ..steps import run as run_step
from ..steps.attempt import End
from ..steps.policies import policy_of
from . import events, leases
from .columns import among, now
from .joined import Joined
from .rows import AttemptRow, FleetRow, InstanceRow, RunRow, Tried, attempt_row, instance_row
from .schema import attempts, bookings, cloud_instances, fleets, gpu_claims, instances, runs

# Built once: making an expression costs more than running it, and the reconcilers run these all the time.
LIVING_INSTANCE = select(instances).where(instances.c.attempt_id == bindparam("id"), ~among(instances.c.state, INSTANCE_END))
"""The instance that is made for an attempt or has the attempt: an index allows no other."""
WITH_ATTEMPT = Joined(attempts, runs, instances)
ATTEMPT = (
    WITH_ATTEMPT.query.select_from(attempts)
    .join(runs, runs.c.id == attempts.c.run_id)
    .outerjoin(instances, instances.c.id == attempts.c.instance_id)
    .where(attempts.c.id == bindparam("id"))
)
WITH_FLEET = Joined(fleets, runs)
HAS_INSTANCES = select(instances.c.id).where(instances.c.fleet_id == fleets.c.id).exists().label("has_instances")
FLEET = (
    WITH_FLEET.query.add_columns(HAS_INSTANCES)
    .outerjoin(runs, runs.c.id == fleets.c.run_id)
    .where(fleets.c.id == bindparam("id"))
)
INSTANCES = select(instances).where(instances.c.fleet_id == bindparam("id")).order_by(instances.c.created_at)
INSTANCE = select(instances).where(instances.c.id == bindparam("id"))
BOOKABLE = select(instances.c.id).where(instances.c.id == bindparam("id")).with_for_update(key_share=True)
"""Locks the instance: others who want to book wait until its state is known."""
ATTEMPT_STATES = (
    select(attempts.c.id, attempts.c.state, attempts.c.instance_id, attempts.c.job)
    .where(attempts.c.run_id == bindparam("id"))
    .order_by(attempts.c.num, attempts.c.job)
)
RUN_NOW = select(
    runs.c.project,
    runs.c.name,
    runs.c.state,
    runs.c.desired,
    runs.c.configuration,
    runs.c.submitted_at,
    runs.c.registry_password.is_not(None).label("has_password"),
    now().label("current"),
).where(runs.c.id == bindparam("id"))
# Where writers are not alone, a stop from another engine must come before this or wait for it.
RUN_NOW = RUN_NOW.with_for_update(key_share=True)
JOB_NOW = [attempts.c[name] for name in ("job_id", *run_step.JobNow.__annotations__)]
JOBS_NOW = select(*JOB_NOW).where(attempts.c.run_id == bindparam("id")).order_by(attempts.c.num, attempts.c.job)
SIBLINGS = select(attempts).where(attempts.c.run_id == bindparam("id")).order_by(attempts.c.num, attempts.c.job)
WIPE_PASSWORD = update(runs).where(runs.c.id == bindparam("b_id")).values(registry_password=None)
STARTED = ATTEMPT_END | {AttemptState.RUNNING}
"""States of attempts that ask no registry for an image any more."""
RUN_OF = select(attempts.c.run_id).where(attempts.c.id == bindparam("id"))


def load_attempt(connection: Connection, attempt_id: str) -> tuple[AttemptRow, RunRow, InstanceRow | None]:
    """(attempt, its run, the instance made for it or None). Raises LookupError for an unknown id."""
    row = connection.execute(ATTEMPT, {"id": attempt_id}).one_or_none()
    if row is None:
        raise LookupError(attempt_id)
    attempt, run, instance = WITH_ATTEMPT.split(row)
    return attempt, run, instance if instance is not None else _one(connection, LIVING_INSTANCE, attempt_id)


def load_siblings(connection: Connection, run_id: str) -> list[tuple[AttemptRow, InstanceRow | None]]:
    """(newest attempt, the instance it is booked on or that is made for it, or None) of each job of a run, in their order."""
    newest = {row.job: attempt_row(row) for row in connection.execute(SIBLINGS, {"id": run_id})}
    return [(newest[job], _place_of(connection, newest[job])) for job in sorted(newest)]


def _place_of(connection: Connection, attempt: AttemptRow) -> InstanceRow | None:
    if attempt.instance_id is not None:
        return _one(connection, INSTANCE, attempt.instance_id)
    return _one(connection, LIVING_INSTANCE, attempt.id)


def _one(connection: Connection, query: Select[Any], id: str) -> InstanceRow | None:
    row = connection.execute(query, {"id": id}).one_or_none()
    return None if row is None else instance_row(row)


def load_fleet(connection: Connection, fleet_id: str) -> tuple[FleetRow, RunRow | None, list[Tried], list[InstanceRow]]:
    """(fleet, the run that made it, that run's attempts, the fleet's instances); of a fleet that a user applied nothing but
    itself."""
    fleet_and_run = connection.execute(FLEET, {"id": fleet_id}).one()
    fleet, run = WITH_FLEET.split(fleet_and_run)
    if run is None:
        return fleet, None, [], []
    tried = [
        Tried(id, AttemptState(state), instance_id, job)
        for id, state, instance_id, job in connection.execute(ATTEMPT_STATES, {"id": run.id})
    ]
    made = connection.execute(INSTANCES, {"id": fleet_id}) if fleet_and_run.has_instances else ()
    return fleet, run, tried, [instance_row(row) for row in made]


HELD_BY = delete(bookings).where(bookings.c.attempt_id == bindparam("id")).returning(bookings.c.instance_id)
BOOKED = select(bookings.c.block).where(bookings.c.instance_id == bindparam("id")).limit(1)
GPUS_OF = delete(gpu_claims).where(gpu_claims.c.instance_id == bindparam("id"))
IDLE_AGAIN = update(cloud_instances).where(cloud_instances.c.instance_id == bindparam("b_id")).values(idle_at=now())
BIND = update(fleets).where(fleets.c.id == bindparam("b_id")).values(place=bindparam("b_place"))
CLOSE = (
    update(fleets)
    .where(fleets.c.id == bindparam("b_id"), ~among(fleets.c.state, FLEET_END))
    .values(state=FleetState.TERMINATED, finished_at=now())
)


WAITING = (
    select(attempts.c.id)
    .join(runs, runs.c.id == attempts.c.run_id)
    .where(
        attempts.c.id.in_(bindparam("ids", expanding=True)),
        ~among(attempts.c.state, ATTEMPT_END),
        attempts.c.instance_id.is_(None),
        runs.c.desired == Desired.RUNNING,
    )
)


def all_wait(connection: Connection, attempt_ids: Sequence[str]) -> bool:
    """Whether none of these attempts has ended or has a place yet, and their run is still wanted."""
    return len(connection.execute(WAITING, {"ids": attempt_ids}).all()) == len(attempt_ids)


def derive_run(connection: Connection, run_id: str, attempt: Row[Any] | None = None) -> RunState:
    """Bring the run's row in line with its attempts; returns its state. ``attempt``: the one that was just moved."""
    run = connection.execute(RUN_NOW, {"id": run_id}).one()
    if run.state in RUN_END:
        return RunState(run.state)
    jobs: dict[str, run_step.JobNow] = {}
    # The moved attempt of a run with one job is its newest: nothing else has to be read.
    configuration = StoredRun(run.configuration)
    alone = attempt is not None and configuration.nodes == 1
    rows: Iterable[Any] = [attempt] if alone else connection.execute(JOBS_NOW, {"id": run_id})
    for row in rows:
        jobs[row.job_id] = run_step.JobNow(
            AttemptState(row.state), row.reason, row.message, row.exit_code, row.num, row.submitted_at, row.finished_at
        )
    policy = policy_of(configuration, run.current)
    outcome = run_step.derive(list(jobs.values()), Desired(run.desired), policy, submitted_at=run.submitted_at, now=run.current)
    if outcome.state != run.state:
        move_run(connection, run_id, outcome, project=run.project, name=run.name)
    if run.has_password and policy.ends_with_its_jobs and all(job.state in STARTED for job in jobs.values()):
        connection.execute(WIPE_PASSWORD, {"b_id": run_id})
    return outcome.state


@cache
def _run_move(state: RunState) -> Update:
    """The update that brings a run into ``state``."""
    values: dict[str, Any] = {"state": state, "next_at": bindparam("b_next_at"), "message": ""}
    values["waits_for"] = bindparam("b_waits_for")
    if state is RunState.RUNNING:
        values["started_at"] = func.coalesce(runs.c.started_at, now())
    if state is RunState.PENDING or state in RUN_END:
        values["message"] = bindparam("b_message")
    if state in RUN_END:
        values |= {name: bindparam(f"b_{name}") for name in ("reason", "exit_code")}
        values |= {"finished_at": now(), "registry_password": None}
    return update(runs).where(runs.c.id == bindparam("b_id")).values(**values)


def move_run(connection: Connection, run_id: str, outcome: run_step.RunNow, *, project: str, name: str) -> None:
    """Store a run's new state, with its event."""
    values = {"b_id": run_id, "b_next_at": outcome.next_at, "b_waits_for": outcome.waits_for}
    if outcome.state is RunState.PENDING or outcome.state in RUN_END:
        values["b_message"] = outcome.message
    if outcome.state in RUN_END:
        values |= {"b_reason": outcome.reason, "b_exit_code": outcome.exit_code}
    connection.execute(_run_move(outcome.state), values)
    events.record(
        connection,
        actor="engine",
        project=project,
        kind="run",
        resource_id=run_id,
        run_id=run_id,
        name=name,
        action=outcome.state,
        message=outcome.message,
    )


@cache
def _attempt_move(state: AttemptState, *, booking: bool = False) -> ReturningUpdate[Any]:
    """The guarded update that moves an unfinished attempt into ``state``; ``booking``: and onto its instance."""
    values: dict[str, Any] = {"state": state}
    if booking:
        values["instance_id"] = bindparam("b_instance")
    if state is AttemptState.RUNNING:
        values["started_at"] = now()
    if state in ATTEMPT_END:
        values["finished_at"] = now()
        values |= {name: bindparam(f"b_{name}") for name in ("reason", "message", "exit_code")}
    return (
        update(attempts)
        .where(attempts.c.id == bindparam("b_id"), ~among(attempts.c.state, {*ATTEMPT_END, state}))
        .values(**values)
        .returning(attempts.c.run_id, *JOB_NOW)
    )


def _move(connection: Connection, attempt_id: str, state: AttemptState, values: dict[str, Any]) -> RunState:
    moved = connection.execute(_attempt_move(state, booking="b_instance" in values), {"b_id": attempt_id, **values}).one_or_none()
    if moved is None:
        return derive_run(connection, connection.execute(RUN_OF, {"id": attempt_id}).scalar_one())
    return derive_run(connection, moved.run_id, moved)


def move_attempt(connection: Connection, attempt_id: str, state: AttemptState) -> RunState:
    """Move an unfinished attempt on; nothing happens to a finished one. Returns the run's state."""
    return _move(connection, attempt_id, state, {})


def say_of_attempt(connection: Connection, attempt_id: str, message: str) -> None:
    """Store what an unfinished attempt does at the moment, for people."""
    unfinished = (attempts.c.id == attempt_id) & attempts.c.state.not_in(ATTEMPT_END)
    connection.execute(update(attempts).where(unfinished).values(message=message))


def end_attempt(connection: Connection, attempt_id: str, end: End) -> RunState:
    """Store how an attempt ended, once, and free what it had booked. Returns the run's state."""
    values = {"b_reason": end.reason, "b_message": end.message, "b_exit_code": end.exit_code}
    freed = connection.execute(HELD_BY, {"id": attempt_id}).scalars()
    for instance_id in sorted(set(freed)):
        connection.execute(BOOKABLE, {"id": instance_id})
        if connection.execute(BOOKED, {"id": instance_id}).scalar() is None:
            move_instance(connection, instance_id, InstanceState.IDLE)
            connection.execute(IDLE_AGAIN, {"b_id": instance_id})
    return _move(connection, attempt_id, end.state, values)


WANT = insert(instances).values(created_at=now())


def want_instance(
    connection: Connection,
    *,
    instance_id: str,
    identity: str,
    attempt_id: str | None,
    fleet: FleetRow,
    run_id: str,
    offer: OfferView,
    guard: Guard,
    host: str,
    gpus: list[int],
    data: dict[str, Any] | None = None,
) -> None:
    """Store the intent (R1, R2), and take the GPUs of a shared host. Raises NoCapacity when they are taken.

    ``data`` is the backend's own; ``place`` in it: where the fleet is bound to from now on, since its instance is a machine that
    only the engine there can use.
    """
    values = {
        "id": instance_id,
        "identity": identity,
        "project": fleet.project,
        "fleet_id": fleet.id,
        "attempt_id": attempt_id,
        "backend": offer.backend,
        "region": offer.region,
        "instance_type": offer.instance_type,
        "price": offer.price,
        "offer": offer.model_dump(),
        "data": {"gpus": gpus, **(data or {})},
        "guard": guard.model_dump(),
        "state": InstanceState.PENDING,
    }
    connection.execute(WANT, values)
    if place := (data or {}).get("place"):
        connection.execute(BIND, {"b_id": fleet.id, "b_place": place})
    try:
        if gpus:
            with connection.begin_nested():
                for gpu in gpus:
                    connection.execute(insert(gpu_claims).values(host=host, gpu=gpu, instance_id=instance_id))
    except IntegrityError as error:
        raise NoCapacity("the GPUs of this machine are in use", hint="stop a run that has them, or wait") from error
    events.record(
        connection,
        actor="engine",
        project=fleet.project,
        kind="instance",
        resource_id=instance_id,
        run_id=run_id,
        name=identity,
        action="wanted",
        message=f"{offer.backend} {offer.instance_type} at {format_dollars(offer.price, 4)}/h",
    )


def claimed_gpus(connection: Connection, host: str) -> set[int]:
    return set(connection.execute(select(gpu_claims.c.gpu).where(gpu_claims.c.host == host)).scalars())


@cache
def _instance_move(state: InstanceState, *, with_data: bool) -> ReturningUpdate[Any]:
    """The guarded update that moves an instance into ``state``."""
    values: dict[str, Any] = {"state": state, "message": bindparam("b_message")}
    if with_data:
        values["data"] = bindparam("b_data")
    if state in (InstanceState.IDLE, InstanceState.BUSY):
        values["started_at"] = func.coalesce(instances.c.started_at, now())
    if state is InstanceState.TERMINATED:
        values["finished_at"] = now()
    # An instance that is to end does not come back: only its end follows.
    final = {state, InstanceState.TERMINATED}
    if state != InstanceState.TERMINATED:
        final.add(InstanceState.TERMINATING)
    return (
        update(instances)
        .where(instances.c.id == bindparam("b_id"), ~among(instances.c.state, final))
        .values(**values)
        .returning(
            instances.c.project,
            instances.c.identity,
            select(attempts.c.run_id).where(attempts.c.id == instances.c.attempt_id).scalar_subquery().label("run_id"),
            select(gpu_claims.c.gpu).where(gpu_claims.c.instance_id == instances.c.id).exists().label("has_gpus"),
        )
    )


def move_instance(
    connection: Connection,
    instance_id: str,
    state: InstanceState,
    *,
    message: str = "",
    data: dict[str, Any] | None = None,
) -> bool:
    """Move an instance on, with its event; free what a terminated one held. False: the instance is there already or is to end."""
    values = {"b_id": instance_id, "b_message": message}
    statement = _instance_move(state, with_data=data is not None)
    moved = connection.execute(statement, values if data is None else {**values, "b_data": data}).one_or_none()
    if moved is None:
        return False
    if state is InstanceState.TERMINATED and moved.has_gpus:
        connection.execute(GPUS_OF, {"id": instance_id})
    events.record(
        connection,
        actor="engine",
        project=moved.project,
        kind="instance",
        resource_id=instance_id,
        run_id=moved.run_id or "",
        name=moved.identity,
        action=state,
        message=message,
    )
    return True


def book(connection: Connection, attempt_id: str, instance_id: str) -> bool:
    """The attempt books its idle instance, in one transaction, so that nobody sees half of this. False: not available."""
    if not move_instance(connection, instance_id, InstanceState.BUSY):
        return False
    _move(connection, attempt_id, AttemptState.PROVISIONING, {"b_instance": instance_id})
    return True


def close_fleet(connection: Connection, fleet_id: str) -> None:
    """End a fleet and its lease."""
    leases.gone(connection, fleet_id)
    connection.execute(CLOSE, {"b_id": fleet_id})
