"""The run reconciler: begins runs that wait (for a schedule, a retry, capacity), and ends those that were stopped meanwhile."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, select

from ...models.states import ATTEMPT_END, RUN_END, Desired, Reason, RunState
from ..names import new_id
from ..runtime.bus import Bus
from ..runtime.queue import Key, Next
from ..steps.run import RunNow
from ..store import moves, runs
from ..store.database import Database
from ..store.schema import attempts


class RunReconciler:
    """Handles the ``run`` keys of the work queue, on the engine's loop."""

    def __init__(self, database: Database, bus: Bus, wake: Callable[[Key], None]) -> None:
        self._database = database
        self._bus = bus
        self._wake = wake

    async def reconcile(self, key: Key) -> Next:
        run, wait = await self._database.read(runs.load, key.id)
        if run.state in RUN_END:
            self._wake(Key("fleet", run.fleet_id))
            return Next()
        if run.desired != Desired.RUNNING:
            if await self._database.write(_end, key.id):
                self._bus.publish(key.id)
                self._wake(Key("fleet", run.fleet_id))
            return Next()
        if run.state != RunState.PENDING:
            return Next()
        if wait > 0:
            # Bounded: the clock may be set, and a laptop may sleep.
            return Next(guard=min(wait, 60.0))
        await self._database.write(_begin, key.id)
        self._bus.publish(key.id)
        self._wake(Key("fleet", run.fleet_id))
        return Next()


def _end(connection: Connection, run_id: str) -> bool:
    """End a run that was stopped while it waited. Jobs that still run end their run themselves."""
    run = runs.alone(connection, run_id)
    states = connection.execute(select(attempts.c.state).where(attempts.c.run_id == run_id)).scalars().all()
    if run.state in RUN_END or any(state not in ATTEMPT_END for state in states):
        return False
    abort = run.desired == Desired.ABORTED
    reason = Reason.ABORTED_BY_USER if abort else Reason.STOPPED_BY_USER
    ended = RunNow(RunState.TERMINATED, reason, f"{'aborted' if abort else 'stopped'} by the user")
    moves.move_run(connection, run_id, ended, project=run.project, name=run.name)
    return True


def _begin(connection: Connection, run_id: str) -> None:
    """New attempts for all jobs of a pending run, if it still waits for them."""
    run = runs.alone(connection, run_id)
    if run.state != RunState.PENDING or run.desired != Desired.RUNNING:
        return
    runs.insert_attempts(connection, run_id, run.configuration.nodes, new_id)
    moves.move_run(connection, run_id, RunNow(RunState.SUBMITTED), project=run.project, name=run.name)
