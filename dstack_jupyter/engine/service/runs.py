"""The service: everything that anybody outside may ask of the engine. All of it runs on the engine's loop.

The service checks, stores and wakes; the reconcilers do the work. Every error is one of ``models.errors``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from ...machines.docker.launcher import WORK
from ...models.backends import BackendView
from ...models.configurations import AnyRun
from ...models.engine import EventView
from ...models.errors import ConfigurationError, Conflict, NotFound
from ...models.fleets import FleetConfiguration
from ...models.frames import Frame
from ...models.instances import InstanceView
from ...models.runs import ApplyRequest, Attachment, AttemptView, Condition, Plan, PlanRequest, RunView
from ...models.states import RUN_END, AttemptState
from ...models.stored import StoredRun
from ..names import new_id, run_name
from ..provisioning.offers import checked, make_plan
from ..provisioning.placement import fleet_names
from ..reconcilers.attempt import is_leaving
from ..runtime import location
from ..runtime.queue import Key
from ..steps.policies import next_start
from ..store import cloud_fleets, conditions, costing, events, leases, moves, runs
from ..store.columns import now
from . import doctor, rotation, streams
from .parts import Parts

BACKLOG = 64
"""Runs that wait to be placed, and machines to be looked after, from which on a submit waits too."""
TURN = 1.0
"""Seconds that a submit waits at most."""


class Service:
    def __init__(self, parts: Parts) -> None:
        self.fleets = parts.fleets
        self.cleanup = parts.cleanup
        self._parts = parts

    async def plan(self, request: PlanRequest) -> Plan:
        """What ``apply`` would do. Changes nothing. Raises ConfigurationError, NotSupportedYet."""
        task = checked(request.configuration)
        offers, missing = await self._parts.provisioning.offers(task, await self._growing(task, request.project))
        plan = make_plan(task, offers, missing, request.max_offers, request.project)
        plan.active_run = await self._parts.database.read(runs.active_named, plan.run_name, request.project)
        return plan

    async def _growing(self, task: AnyRun, project: str) -> FleetConfiguration | None:
        """The fleet that gets the cloud instances of a run, if the run names a fleet that may grow so far."""
        names = fleet_names(task)
        if not names or task.creation_policy == "reuse":
            return None
        growable = await self._parts.database.read(cloud_fleets.growable, project, names, task.node_count)
        return FleetConfiguration.model_validate(growable[0].configuration) if growable else None

    async def apply(self, request: ApplyRequest, *, user: str) -> RunView:
        """Store the run and begin with it. The same ``request_key`` again gives the same run (R15).

        Raises ConfigurationError, NotSupportedYet, Conflict (the name is active), StorageFull.
        """
        task = checked(request.configuration)
        for ref in request.code:
            if not await self._parts.archives.has(ref.sha256):
                raise ConfigurationError("the code of this run was not uploaded", hint="apply again")
        await self._turn()
        tries = 1 if task.name else 10
        while True:
            tries -= 1
            start = None
            if task.schedule:
                start = next_start(StoredRun(task.given()), await self._parts.database.read(_now))
            submission = _submission(request, task, user, self._parts.owner, start)
            try:
                view, new = await self._parts.database.write(runs.submit, submission)
                break
            except Conflict:
                # A name of our own making that is taken is no fault of the user's: the next one.
                if not tries:
                    raise
        if new:
            self._parts.submitted(view.id, submission.fleet_id, submission.attempt_ids)
            if submission.next_at is not None:
                self._parts.wake(Key("run", view.id))
            self._parts.bus.publish(view.id)
        return await self._with_what_is_known(view)

    async def _turn(self) -> None:
        """A client that submits a thousand runs waits for the engine: else each run would wait behind all the others."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + TURN
        while self._parts.backlog() >= BACKLOG and loop.time() < latest:
            await asyncio.sleep(0.01)

    async def runs(self, *, project: str, all: bool = False, last: int | None = None) -> list[RunView]:
        """Runs, newest first: the active ones, or with ``all`` or ``last`` the ended ones too."""

        def read(connection: Connection) -> list[RunView]:
            return runs.views(connection, project=project, active=not all and last is None, last=last)

        views = [self._with_conditions(view) for view in await self._parts.database.read_aside(read)]
        await self._say_elsewhere([view for view in views if not view.ended])
        return views

    async def machines(self, *, project: str, all: bool = False) -> list[InstanceView]:
        """The cloud instances, oldest first: those that have not ended, with ``all`` those of the last day too."""

        def read(connection: Connection) -> list[InstanceView]:
            return costing.machines(connection, project, all=all)

        return await self._parts.database.read_aside(read)

    async def run(self, ref: str, *, project: str) -> RunView:
        """One run by id or name (its newest of that name). Raises NotFound."""
        return await self._view(await self._parts.database.read(runs.find, ref, project))

    async def stop(self, ref: str, *, project: str, abort: bool, user: str) -> RunView:
        """Ask a run to end; idempotent, and no error for one that has ended. Raises NotFound."""
        run_id = await self._parts.database.read(runs.find, ref, project)
        if await self._parts.database.write(runs.ask_to_end, run_id, user, abort):
            self._parts.bus.publish(run_id)
        view = await self._view(run_id)
        if view.state not in RUN_END:
            for attempt in view.attempts:
                self._parts.wake(Key("attempt", attempt.id))
            self._parts.wake(Key("run", run_id))
        return view

    async def stream(
        self, ref: str, *, project: str, offset: int = 0, follow: bool = True, job: int = 0, attempt: str = ""
    ) -> AsyncIterator[Frame]:
        """The run's state and one job's log as frames, from byte ``offset`` of an attempt (the newest if ''), until the run has
        ended (or what is there was sent)."""
        run_id = await self._parts.database.read(runs.find, ref, project)
        frames = streams.run_frames(
            self._parts.database, self._parts.bus, self._view, run_id, offset, follow=follow, job=job, attempt=attempt
        )
        async for frame in frames:
            yield frame

    async def raw_log(self, ref: str, *, project: str, offset: int = 0, job: int = 0) -> AsyncIterator[bytes]:
        """The stored log of a job from byte ``offset``, piece by piece. A gap has no bytes. Raises NotFound."""
        view = await self.run(ref, project=project)
        async for piece in streams.raw_log(self._parts.database, _attempt_of(view, job), offset):
            yield piece

    async def pull(self, ref: str, *, project: str, path: str, job: int = 0) -> AsyncIterator[bytes]:
        """A tar stream of ``path`` in a job's working folder. Raises NotFound, ConfigurationError."""
        view = await self.run(ref, project=project)
        attempt, _, instance = await self._parts.database.read(moves.load_attempt, _attempt_of(view, job))
        if instance is None:
            raise NotFound(f"run {view.name!r} never had a machine, so it left no files")
        if is_leaving(instance):
            raise NotFound(f"the machine of run {view.name!r} is gone, and its files with it", hint="pull while a run goes on")
        async for chunk in self._parts.machine(instance).pull(attempt.id, path):
            yield chunk

    async def has_code(self, sha256: str) -> bool:
        return await self._parts.archives.has(sha256)

    async def store_code(self, sha256: str, temporary: Path) -> None:
        """Take over an uploaded file whose hash the caller has checked. Same file system: the move is atomic."""
        await self._parts.archives.put(sha256, temporary)

    async def events(self, *, project: str, after: int = 0, limit: int = 100, run: str = "") -> list[EventView]:
        """The event log: the newest ``limit`` lines, or those after number ``after``; of one run, or of all."""
        run_id = await self._parts.database.read(runs.find, run, project) if run else ""

        def read(connection: Connection) -> list[EventView]:
            return events.read(connection, project=project, after=after, limit=limit, run_id=run_id)

        return await self._parts.database.read_aside(read)

    async def follow_events(self, *, project: str, after: int) -> AsyncIterator[EventView]:
        """Every event after number ``after`` (0: from now on), as they happen, for ever."""
        if not after:
            newest = await self.events(project=project, limit=1)
            after = newest[-1].seq if newest else 0
        with self._parts.bus.subscribe() as changed:
            while True:
                changed.clear()
                for event in await self.events(project=project, after=after, limit=500):
                    after = event.seq
                    yield event
                    changed.set()  # there may be more than one page
                await changed.wait()

    async def backends(self) -> list[BackendView]:
        return await asyncio.to_thread(_backends)

    async def rotate_key(self) -> dict[str, Any]:
        """A new key for the store: ``{key, forgotten, values}``. Raises StorageFull, ConfigurationError."""
        return await rotation.rotate(self._parts.database, self._parts.vault)

    async def doctor(self) -> list[dict[str, Any]]:
        """Checks of this installation: ``[{check, ok, message, hint}]``."""
        return await doctor.examine(self._parts.database, self._parts.vault, self._parts.home, self._parts.problems.now())

    async def _view(self, run_id: str) -> RunView:
        return await self._with_what_is_known(await self._parts.database.read(runs.view, run_id))

    async def _with_what_is_known(self, view: RunView) -> RunView:
        """As stored, with what this engine and the others know of it."""
        self._with_conditions(view)
        if not view.ended:
            await self._say_elsewhere([view])
        return view

    async def _say_elsewhere(self, views: list[RunView]) -> None:
        """Where engines share the store: say of runs of another engine what that one knows of them.

        And of those on a machine whose engine is away, that nobody can act for them now.
        """
        by_id = {view.id: view for view in views if not self._parts.acts_for(Key("run", view.id))}
        if not by_id:
            return
        run_of = {attempt.id: view for view in by_id.values() for attempt in view.attempts}
        for row in await self._parts.database.read(conditions.of, list(run_of)):
            if all(each.type != row.type for each in run_of[row.attempt_id].conditions):
                known = Condition(type=row.type, since=row.since, message=row.message)
                run_of[row.attempt_id].conditions.append(known)
        for run_id, there in (await self._parts.database.read(leases.acting, list(by_id))).items():
            view = by_id[run_id]
            if view.attachment is None and view.is_reachable and _running(view) is not None:
                text = (
                    f"its ports and its login are on {location.name_of(there)}: "
                    "attach from a notebook of the Jupyter server there"
                )
                view.attachment = Attachment(notes=[text])
        for absent in await self._parts.database.read(leases.absent, list(by_id)):
            name = location.name_of(absent.place)
            text = f"it runs on {name}, and no engine runs there: start a Jupyter server there to go on"
            by_id[absent.run_id].conditions.append(Condition(type="unreachable", since=absent.since, message=text))

    def _with_conditions(self, view: RunView) -> RunView:
        view.conditions = self._parts.problems.of(view)
        running = _running(view)
        if running is not None:
            view.attachment = self._parts.forwards.attachment(running.id, WORK)
        return view


def _running(view: RunView) -> AttemptView | None:
    """The attempt through which users reach a run."""
    return next((each for each in reversed(view.attempts) if each.job == 0 and each.state == AttemptState.RUNNING), None)


def _attempt_of(view: RunView, job: int) -> str:
    """The newest attempt of a job. Raises NotFound."""
    attempt_id = next((attempt.id for attempt in reversed(view.attempts) if attempt.job == job), None)
    if attempt_id is None:
        raise NotFound(f"run {view.name!r} has no job {job}" if view.attempts else f"run {view.name!r} has not started yet")
    return attempt_id


def _now(connection: Connection) -> float:
    return connection.execute(select(now())).scalar_one()


def _submission(request: ApplyRequest, task: AnyRun, user: str, owner: str, start: float | None) -> runs.Submission:
    name = task.name or run_name()
    return runs.Submission(
        run_id=new_id(),
        attempt_ids=[] if start else [new_id() for _ in range(task.node_count)],
        next_at=start,
        fleet_id=new_id(),
        project=request.project,
        name=name,
        type=task.type,
        request_key=request.request_key,
        user=user,
        configuration={**task.given(), "name": name},
        code=[ref.model_dump() for ref in request.code],
        context=request.context.model_dump(),
        owner=owner,
        registry_password=request.registry_password or None,
    )


def _backends() -> list[BackendView]:
    from ...backends import overview  # with numpy, which no start waits for

    return overview.views()
