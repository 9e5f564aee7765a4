"""Runs and their attempts in the store: submitting, finding, moving them on, and how they look from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from ...models.configurations import without_values
from ...models.errors import Conflict, NotFound
from ...models.instances import Guard
from ...models.runs import AttemptView, RunView
from ...models.states import (
    ATTEMPT_END,
    INSTANCE_END,
    RUN_END,
    AttemptState,
    Desired,
    FleetState,
    InstanceState,
    Reason,
    RunState,
    WaitsFor,
)
from ...models.stored import StoredRun
from ..steps import costs
from . import costing, events, leases
from .columns import now
from .rows import RunRow, run_row
from .schema import attempts, fleets, instances, runs


@dataclass(frozen=True, slots=True)
class Submission:
    """A run as it enters the store, with its first attempts and the fleet that it makes for itself.

    ``attempt_ids``: one for each job; none where a schedule starts it at ``next_at``.
    """

    run_id: str
    attempt_ids: list[str]
    next_at: float | None
    fleet_id: str
    project: str
    name: str
    type: str
    request_key: str
    user: str
    configuration: dict[str, Any]
    code: list[dict[str, Any]]
    context: dict[str, Any]
    registry_password: str | None = None
    owner: str = ""
    """The engine that leases the run's fleet from the beginning; '' with SQLite."""


SUBMITTED = (
    "project", "name", "type", "request_key", "user", "configuration", "code", "context", "fleet_id", "registry_password",
)  # fmt: skip
SAME_REQUEST = select(runs.c.id).where(runs.c.project == bindparam("project"), runs.c.request_key == bindparam("key"))
INSERT_FLEET = insert(fleets).values(
    kind="run",
    message="",
    place="",
    state=FleetState.ACTIVE,
    created_at=now(),
    **{name: bindparam(name) for name in ("id", "project", "name", "run_id")},
)
NEW_RUN = {"desired": Desired.RUNNING, "submitted_at": now()} | {
    name: bindparam(name) for name in ("id", "state", "next_at", "waits_for", *SUBMITTED)
}
# Where the request or the name is there already, nothing is stored and nothing comes back: cheaper than a savepoint for each.
INSERT_RUN = {
    "sqlite": sqlite.insert(runs).values(NEW_RUN).on_conflict_do_nothing().returning(runs),
    "postgresql": postgresql.insert(runs).values(NEW_RUN).on_conflict_do_nothing().returning(runs),
}
FORGET_FLEET = delete(fleets).where(fleets.c.id == bindparam("id"))
INSERT_ATTEMPT = (
    insert(attempts)
    .values(
        replica=0,
        state=AttemptState.SUBMITTED,
        submitted_at=now(),
        **{name: bindparam(name) for name in ("id", "run_id", "job_id", "job", "num")},
    )
    .returning(attempts)
)


def submit(connection: Connection, new: Submission) -> tuple[RunView, bool]:
    """Store a run; the same request again is the same run. Returns (the run, whether it is new). Raises Conflict."""
    values = {name: getattr(new, name) for name in SUBMITTED} | {"id": new.run_id, "next_at": new.next_at}
    values["state"] = RunState.SUBMITTED if new.attempt_ids else RunState.PENDING
    values["waits_for"] = WaitsFor.NOTHING if new.attempt_ids else WaitsFor.SCHEDULE
    fleet = {"id": new.fleet_id, "project": new.project, "name": new.name, "run_id": new.run_id}
    connection.execute(INSERT_FLEET, fleet)
    run = connection.execute(INSERT_RUN[connection.dialect.name], values).one_or_none()
    if run is None:
        connection.execute(FORGET_FLEET, {"id": new.fleet_id})
        known = connection.execute(SAME_REQUEST, {"project": new.project, "key": new.request_key}).scalar()
        if known is None:
            raise _name_in_use(connection, new)
        return view(connection, known), False
    leases.born(connection, new.fleet_id, new.owner)
    tried = [_insert_attempt(connection, attempt_id, new.run_id, job, 0) for job, attempt_id in enumerate(new.attempt_ids)]
    events.record(
        connection,
        actor=new.user,
        project=new.project,
        kind="run",
        resource_id=new.run_id,
        run_id=new.run_id,
        name=new.name,
        action="submitted",
    )
    return _view(run, tried, []), True


def _insert_attempt(connection: Connection, attempt_id: str, run_id: str, job: int, num: int) -> Row[Any]:
    values = {"id": attempt_id, "run_id": run_id, "job_id": f"{run_id}-0-{job}", "job": job, "num": num}
    return connection.execute(INSERT_ATTEMPT, values).one()


def insert_attempts(connection: Connection, run_id: str, nodes: int, new_id: Callable[[], str]) -> None:
    """A further attempt of each job of a run."""
    last = connection.execute(select(func.max(attempts.c.num)).where(attempts.c.run_id == run_id)).scalar()
    for job in range(nodes):
        _insert_attempt(connection, new_id(), run_id, job, 0 if last is None else last + 1)


def _name_in_use(connection: Connection, new: Submission) -> Conflict:
    state = connection.execute(
        select(runs.c.state).where(runs.c.project == new.project, runs.c.name == new.name, runs.c.state.not_in(RUN_END))
    ).scalar()
    return Conflict(
        f"a run named {new.name!r} is active ({state or 'just started'})",
        hint=f"follow it with `%dstack attach {new.name}`, end it with `%dstack stop {new.name}`, or choose another name",
    )


def find(connection: Connection, ref: str, project: str) -> str:
    """The id of the run that ``ref`` means: an id, or a name (its newest run). Raises NotFound with near names."""
    run_id = connection.execute(
        select(runs.c.id)
        .where(runs.c.project == project, (runs.c.id == ref) | (runs.c.name == ref))
        .order_by(runs.c.submitted_at.desc())
        .limit(1)
    ).scalar()
    if run_id is not None:
        return str(run_id)
    names = connection.execute(
        select(runs.c.name)
        .where(runs.c.project == project)
        .group_by(runs.c.name)
        .order_by(func.max(runs.c.submitted_at).desc())
        .limit(5)
    ).scalars()
    known = ", ".join(names)
    raise NotFound(
        f"there is no run {ref!r} in project {project!r}",
        hint=f"recent runs: {known}" if known else "no run was made in this project yet",
    )


def active_named(connection: Connection, name: str, project: str) -> str:
    """The id of the active run of that name, or ''."""
    run_id = connection.execute(
        select(runs.c.id).where(runs.c.project == project, runs.c.name == name, runs.c.state.not_in(RUN_END))
    ).scalar()
    return run_id or ""


def ask_to_end(connection: Connection, run_id: str, user: str, abort: bool) -> bool:
    """Record that a user wants the run to end; a stop may become an abort, never the reverse. False if nothing changed."""
    wanted = Desired.ABORTED if abort else Desired.STOPPED
    before = [Desired.RUNNING, Desired.STOPPED] if abort else [Desired.RUNNING]
    changed = connection.execute(
        update(runs)
        .where(runs.c.id == run_id, runs.c.state.not_in(RUN_END), runs.c.desired.in_(before))
        .values(desired=wanted, state=RunState.TERMINATING, waits_for=WaitsFor.NOTHING)
        .returning(runs.c.project, runs.c.name)
    ).one_or_none()
    if changed is None:
        return False
    events.record(
        connection,
        actor=user,
        project=changed.project,
        kind="run",
        resource_id=run_id,
        run_id=run_id,
        name=changed.name,
        action="abort" if abort else "stop",
    )
    return True


def for_capacity(connection: Connection) -> list[str]:
    """Runs that wait because no machine could be had, those of the highest priority first; each may try now."""
    rows = connection.execute(
        select(runs.c.id, runs.c.configuration, runs.c.submitted_at).where(
            runs.c.state == RunState.PENDING,
            runs.c.desired == Desired.RUNNING,
            runs.c.waits_for == WaitsFor.CAPACITY,
        )
    ).all()
    ordered = sorted(rows, key=lambda row: (-StoredRun(row.configuration).priority, row.submitted_at))
    ids = [row.id for row in ordered]
    waiting = runs.c.id.in_(ids) & (runs.c.state == RunState.PENDING) & (runs.c.waits_for == WaitsFor.CAPACITY)
    connection.execute(update(runs).where(waiting).values(next_at=now()))
    return ids


ALONE = select(runs).where(runs.c.id == bindparam("id")).with_for_update(key_share=True)
WITH_TIME = select(runs, now()).where(runs.c.id == bindparam("id"))


def alone(connection: Connection, run_id: str) -> RunRow:
    """A run that nobody stops between this and our commit."""
    return run_row(connection.execute(ALONE, {"id": run_id}).one())


def load(connection: Connection, run_id: str) -> tuple[RunRow, float]:
    """(the run, seconds until its time has come)."""
    row = connection.execute(WITH_TIME, {"id": run_id}).one()
    run, current = run_row(row), row[-1]
    return run, (run.next_at or current) - current


def looking(connection: Connection, run: RunRow, within: float) -> list[tuple[StoredRun, float]]:
    """(configuration, time of submission) of the other runs of a project that waited once and now look for a machine.

    ``within``: seconds for which an attempt counts as looking.
    """
    machine = select(instances.c.id).where(instances.c.attempt_id == attempts.c.id, instances.c.state != InstanceState.TERMINATED)
    query = (
        select(runs.c.configuration, runs.c.submitted_at)
        .join(attempts, attempts.c.run_id == runs.c.id)
        .where(
            runs.c.project == run.project,
            runs.c.id != run.id,
            attempts.c.num > 0,
            attempts.c.state == AttemptState.SUBMITTED,
            attempts.c.instance_id.is_(None),
            attempts.c.submitted_at > now() - within,
            ~machine.exists(),
        )
    )
    return [(StoredRun(row.configuration), row.submitted_at) for row in connection.execute(query)]


def count_unfinished(connection: Connection) -> int:
    return connection.execute(select(func.count()).select_from(runs).where(runs.c.state.not_in(RUN_END))).scalar_one()


ONE = select(runs).where(runs.c.id == bindparam("id"))
ATTEMPTS_OF_ONE = select(attempts).where(attempts.c.run_id == bindparam("id")).order_by(attempts.c.num, attempts.c.job)
INSTANCES_OF_ONE = costing.MACHINES.where(instances.c.fleet_id == bindparam("id")).order_by(instances.c.created_at)
BOOKED_BY_ONE = costing.MACHINES.where(
    instances.c.id.in_(select(attempts.c.instance_id).where(attempts.c.run_id == bindparam("id"))),
)


def view(connection: Connection, run_id: str) -> RunView:
    """One run as it looks from outside. Built of prepared statements: every follower calls it at every change."""
    run = connection.execute(ONE, {"id": run_id}).one()
    tried = connection.execute(ATTEMPTS_OF_ONE, {"id": run_id}).all()
    made = connection.execute(INSTANCES_OF_ONE, {"id": run.fleet_id}).all()
    own = {None, *(row.id for row in made)}
    booked = connection.execute(BOOKED_BY_ONE, {"id": run_id}).all() if any(row.instance_id not in own for row in tried) else []
    return _view(run, tried, [*made, *booked])


def views(
    connection: Connection,
    *,
    project: str = "",
    active: bool = False,
    last: int | None = None,
) -> list[RunView]:
    """Runs as they look from outside, newest first."""
    query = select(runs).order_by(runs.c.submitted_at.desc())
    if project:
        query = query.where(runs.c.project == project)
    if active:
        query = query.where(runs.c.state.not_in(RUN_END))
    if last is not None:
        query = query.limit(last)
    listed = connection.execute(query).all()
    ids = [row.id for row in listed]
    tried: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(select(attempts).where(attempts.c.run_id.in_(ids)).order_by(attempts.c.num, attempts.c.job)):
        tried.setdefault(row.run_id, []).append(row)
    used = {row.instance_id for rows in tried.values() for row in rows if row.instance_id is not None}
    query = costing.MACHINES.where(instances.c.fleet_id.in_([run.fleet_id for run in listed]) | instances.c.id.in_(used))
    by_id = {row.id: row for row in connection.execute(query.order_by(instances.c.created_at))}
    by_fleet: dict[str, list[Row[Any]]] = {}
    for row in by_id.values():
        by_fleet.setdefault(row.fleet_id, []).append(row)
    views = []
    for run in listed:
        mine, own = tried.get(run.id, []), by_fleet.get(run.fleet_id, [])
        booked = {row.instance_id: by_id[row.instance_id] for row in mine if row.instance_id in by_id}
        views.append(_view(run, mine, [*own, *(row for row in booked.values() if row.fleet_id != run.fleet_id)]))
    return views


def _view(run: Row[Any], tried: Sequence[Row[Any]], rows: Sequence[Row[Any]]) -> RunView:
    """``rows``: of ``costing.MACHINES``, those of the run's own fleet first, by age; then those of others that it has booked."""
    by_id = {row.id: row for row in rows}
    booked = [by_id[row.instance_id] for row in tried if row.instance_id in by_id]
    last = tried[-1].num if tried else 0
    nodes = [by_id[row.instance_id] for row in tried if row.num == last and row.instance_id in by_id]
    seeks = {row.id for row in tried if row.num == last and _seeks(row)}
    own = [row for row in rows if row.fleet_id == run.fleet_id]
    newest = booked[-1] if booked else own[-1] if own else None
    # Before they are booked, the machines that are being made for it are what it has.
    held = nodes or [row for row in own if row.state not in INSTANCE_END] or ([newest] if newest else [])
    return RunView(
        id=run.id,
        project=run.project,
        name=run.name,
        type=run.type,
        state=RunState(run.state),
        reason=run.reason,
        message=run.message or _waiting_for(run, tried, newest),
        user=run.user,
        submitted_at=run.submitted_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        exit_code=run.exit_code,
        backend=newest.backend if newest else "",
        region=newest.region if newest else "",
        instance_type=_types(held),
        price=costs.total(row.price for row in held) if held else None,
        cost=costing.of_run(own, tried, by_id),
        guard=Guard(**newest.guard) if newest else None,
        machines=[costing.view(row, run.name, [run.name], run.user) for row in own if costing.lives(row)],
        tried=[costing.tried(row, row.message) for row in own if row.attempt_id in seeks and costing.in_vain(row)],
        attempts=[
            AttemptView(
                id=row.id,
                num=row.num,
                host=by_id[row.instance_id].instance_type if row.instance_id in by_id else "",
                replica=row.replica,
                job=row.job,
                state=AttemptState(row.state),
                reason=row.reason,
                message=row.message,
                exit_code=row.exit_code,
                log_size=row.log_offset,
                submitted_at=row.submitted_at,
                started_at=row.started_at,
                finished_at=row.finished_at,
            )
            for row in tried
        ],
        configuration=without_values(run.configuration),
    )


def _seeks(attempt: Row[Any]) -> bool:
    """Whether an attempt waits for a machine, or ended since there was none."""
    return attempt.instance_id is None and (attempt.state not in ATTEMPT_END or attempt.reason == Reason.NO_CAPACITY)


def _types(machines: Sequence[Row[Any]]) -> str:
    """``gpu-1``, ``8 × gpu-1``, ``desk-1, desk-2``."""
    counted = Counter(row.instance_type for row in machines)
    return ", ".join(f"{count} × {name}" if count > 1 else name for name, count in counted.items())


def _waiting_for(run: Row[Any], tried: Sequence[Row[Any]], instance: Row[Any] | None) -> str:
    """One sentence about what an unfinished run waits for; '' while its job simply runs."""
    if run.state == RunState.TERMINATING:
        return "waiting for the job to end"
    if run.state == RunState.SUBMITTED:
        if instance is None or instance.state in INSTANCE_END:
            return "looking for a machine"
        if instance.message or instance.observed is None:
            return instance.message or "looking for a machine"
        return f"asking {instance.backend} for {instance.instance_type}" + (f" in {instance.region}" if instance.region else "")
    if run.state == RunState.PROVISIONING:
        return next((row.message for row in tried if row.message and not row.finished_at), "preparing the machine")
    return tried[-1].message if tried else ""
