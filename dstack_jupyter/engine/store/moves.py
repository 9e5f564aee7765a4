"""The moves of attempts, instances and fleets: each one a guarded update, with its event, and the run's state derived anew."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningUpdate

from ...models.errors import NoCapacity
from ...models.runs import Guard, OfferView
from ...models.states import (
    ATTEMPT_END,
    FLEET_END,
    RUN_END,
    AttemptState,
    Desired,
    FleetState,
    InstanceState,
    RunState,
)
from ..steps import run as run_step
from ..steps.attempt import End
from . import events
from .schema import attempts, fleets, gpu_claims, instances, now, runs

# Built once: making an expression costs more than running it, and the reconcilers run these all the time.
ATTEMPT = select(attempts).where(attempts.c.id == bindparam("id"))
RUN = select(runs).where(runs.c.id == bindparam("id"))
FLEET = select(fleets).where(fleets.c.id == bindparam("id"))
NEWEST_INSTANCE = (
    select(instances).where(instances.c.attempt_id == bindparam("id")).order_by(instances.c.created_at.desc()).limit(1)
)
INSTANCES = select(instances).where(instances.c.fleet_id == bindparam("id")).order_by(instances.c.created_at)
ATTEMPT_STATES = select(attempts.c.id, attempts.c.state).where(attempts.c.run_id == bindparam("id")).order_by(attempts.c.num)
RUN_NOW = select(runs.c.project, runs.c.name, runs.c.state, runs.c.desired).where(runs.c.id == bindparam("id"))
JOBS_NOW = (
    select(attempts.c.job_id, attempts.c.state, attempts.c.reason, attempts.c.message, attempts.c.exit_code)
    .where(attempts.c.run_id == bindparam("id"))
    .order_by(attempts.c.num)
)
RUN_OF = select(attempts.c.run_id).where(attempts.c.id == bindparam("id"))


def load_attempt(connection: Connection, attempt_id: str) -> tuple[Row[Any], Row[Any], Row[Any] | None]:
    """(attempt, its run, the instance made for it or None). Raises LookupError for an unknown id."""
    attempt = connection.execute(ATTEMPT, {"id": attempt_id}).one_or_none()
    if attempt is None:
        raise LookupError(attempt_id)
    run = connection.execute(RUN, {"id": attempt.run_id}).one()
    return attempt, run, connection.execute(NEWEST_INSTANCE, {"id": attempt_id}).one_or_none()


def load_fleet(connection: Connection, fleet_id: str) -> tuple[Row[Any], Row[Any], Sequence[Row[Any, Any]], Sequence[Row[Any]]]:
    """(fleet, the run that made it, that run's attempts (id, state), the fleet's instances)."""
    fleet = connection.execute(FLEET, {"id": fleet_id}).one()
    run = connection.execute(RUN, {"id": fleet.run_id}).one()
    tried = connection.execute(ATTEMPT_STATES, {"id": run.id}).all()
    return fleet, run, tried, connection.execute(INSTANCES, {"id": fleet_id}).all()


def open_fleets(connection: Connection) -> list[str]:
    return list(connection.execute(select(fleets.c.id).where(fleets.c.state.not_in(FLEET_END))).scalars())


def derive_run(connection: Connection, run_id: str) -> RunState:
    """Bring the run's row in line with its attempts; returns its state."""
    run = connection.execute(RUN_NOW, {"id": run_id}).one()
    if run.state in RUN_END:
        return RunState(run.state)
    jobs: dict[str, run_step.JobNow] = {}
    for row in connection.execute(JOBS_NOW, {"id": run_id}):
        jobs[row.job_id] = run_step.JobNow(AttemptState(row.state), row.reason, row.message, row.exit_code)
    found = run_step.derive(list(jobs.values()), Desired(run.desired))
    if found.state == run.state:
        return found.state
    values: dict[str, Any] = {"state": found.state}
    if found.state is RunState.RUNNING:
        values["started_at"] = func.coalesce(runs.c.started_at, now())
    if found.state in RUN_END:
        values |= {
            "reason": found.reason,
            "message": found.message,
            "exit_code": found.exit_code,
            "finished_at": now(),
        }
    connection.execute(update(runs).where(runs.c.id == run_id).values(**values))
    events.record(
        connection,
        actor="engine",
        project=run.project,
        kind="run",
        resource_id=run_id,
        run_id=run_id,
        name=run.name,
        action=found.state,
        message=found.message,
    )
    return found.state


@cache
def _attempt_move(state: AttemptState) -> ReturningUpdate[Any]:
    """The guarded update that moves an unfinished attempt into ``state``."""
    values: dict[str, Any] = {"state": state}
    if state is AttemptState.RUNNING:
        values["started_at"] = now()
    if state in ATTEMPT_END:
        values["finished_at"] = now()
        values |= {name: bindparam(f"b_{name}") for name in ("reason", "message", "exit_code")}
    return (
        update(attempts)
        .where(attempts.c.id == bindparam("b_id"), attempts.c.state.not_in(ATTEMPT_END), attempts.c.state != state)
        .values(**values)
        .returning(attempts.c.run_id)
    )


def _move(connection: Connection, attempt_id: str, state: AttemptState, values: dict[str, Any]) -> RunState:
    run_id = connection.execute(_attempt_move(state), {"b_id": attempt_id, **values}).scalar()
    if run_id is None:
        run_id = connection.execute(RUN_OF, {"id": attempt_id}).scalar_one()
    return derive_run(connection, run_id)


def move_attempt(connection: Connection, attempt_id: str, state: AttemptState) -> RunState:
    """Move an unfinished attempt on; nothing happens to a finished one. Returns the run's state."""
    return _move(connection, attempt_id, state, {})


def end_attempt(connection: Connection, attempt_id: str, end: End) -> RunState:
    """Store how an attempt ended, once. Returns the run's state."""
    values = {"b_reason": end.reason, "b_message": end.message, "b_exit_code": end.exit_code}
    return _move(connection, attempt_id, end.state, values)


def want_instance(
    connection: Connection,
    *,
    instance_id: str,
    identity: str,
    attempt_id: str,
    fleet: Row[Any],
    run: Row[Any],
    offer: OfferView,
    guard: Guard,
    host: str,
    gpus: list[int],
) -> None:
    """Store the intent (R1, R2), and take the GPUs of a shared host. Raises NoCapacity when they are taken."""
    connection.execute(
        insert(instances).values(
            id=instance_id,
            identity=identity,
            project=fleet.project,
            fleet_id=fleet.id,
            attempt_id=attempt_id,
            backend=offer.backend,
            region=offer.region,
            instance_type=offer.instance_type,
            price=offer.price,
            offer=offer.model_dump(),
            data={"gpus": gpus},
            guard=guard.model_dump(),
            state=InstanceState.PENDING,
            created_at=now(),
        )
    )
    try:
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
        run_id=run.id,
        name=identity,
        action="wanted",
        message=f"{offer.backend} {offer.instance_type} at ${offer.price:g}/h",
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
    return (
        update(instances)
        .where(instances.c.id == bindparam("b_id"), instances.c.state.not_in([state, InstanceState.TERMINATED]))
        .values(**values)
        .returning(instances.c.project, instances.c.identity, instances.c.attempt_id)
    )


def move_instance(
    connection: Connection,
    instance_id: str,
    state: InstanceState,
    *,
    message: str = "",
    data: dict[str, Any] | None = None,
) -> None:
    """Move an instance on, with its event; frees what a terminated one held. Nothing happens if it is there already."""
    if state is InstanceState.TERMINATED:
        connection.execute(delete(gpu_claims).where(gpu_claims.c.instance_id == instance_id))
    values = {"b_id": instance_id, "b_message": message}
    statement = _instance_move(state, with_data=data is not None)
    moved = connection.execute(statement, values if data is None else {**values, "b_data": data}).one_or_none()
    if moved is None:
        return
    run_id = connection.execute(RUN_OF, {"id": moved.attempt_id}).scalar() or ""
    events.record(
        connection,
        actor="engine",
        project=moved.project,
        kind="instance",
        resource_id=instance_id,
        run_id=run_id,
        name=moved.identity,
        action=state,
        message=message,
    )


def book(connection: Connection, attempt_id: str, instance_id: str) -> RunState:
    """The attempt takes its idle instance: one transaction, so that nobody sees the half of it."""
    move_instance(connection, instance_id, InstanceState.BUSY)
    return move_attempt(connection, attempt_id, AttemptState.PROVISIONING)


def close_fleet(connection: Connection, fleet_id: str) -> None:
    connection.execute(
        update(fleets)
        .where(fleets.c.id == fleet_id, fleets.c.state.not_in(FLEET_END))
        .values(state=FleetState.TERMINATED, finished_at=now())
    )
