"""The attempt reconciler: looks at a job, asks ``steps.attempt`` what to do, does it, stores it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Row

from ..machines.base import Ending, JobReport, JobSpec, Machine
from ..models.errors import ConfigurationError
from ..models.states import ATTEMPT_END, AttemptState, Desired, InstanceState
from .bus import Bus
from .queue import Key, Next
from .steps import attempt as steps
from .store import logs, moves
from .store.database import Database

READ = 1 << 20
"""Bytes of log that one look takes: large enough for 350 k lines/s, small enough for one transaction."""
REST = 0.02
"""Seconds between two looks at a job that writes: bytes are stored in blocks; the first after a silence goes at once."""
ASK_AGAIN = 0.1
"""Seconds until a job that could not be told to end is told again."""
GUARD = 30.0
"""Seconds after which a running job is looked at although nothing woke us."""

SpecBuilder = Callable[[Row[Any], Row[Any], Row[Any]], JobSpec]


class AttemptReconciler:
    """Handles the ``attempt`` keys of the work queue, on the engine's loop.

    ``machine`` finds the machine of an instance row, ``spec`` makes the job of (attempt, run, instance), ``wake`` adds a key.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        machine: Callable[[Row[Any]], Machine],
        spec: SpecBuilder,
        wake: Callable[[Key], None],
    ) -> None:
        self._database = database
        self._bus = bus
        self._machine = machine
        self._spec = spec
        self._wake = wake
        self._asked: dict[str, Desired] = {}
        self._refused: dict[str, str] = {}
        self._watching: set[str] = set()

    async def reconcile(self, key: Key) -> Next:
        """One look and one step; asks to be called again while there is more to do at once."""
        attempt, run, instance = await self._database.read(moves.load_attempt, key.id)
        if attempt.state in ATTEMPT_END:
            self._forget(key.id, instance)
            return Next()
        report = JobReport(started=False)
        if instance is not None and instance.state in (InstanceState.BUSY, InstanceState.TERMINATING):
            report = await self._machine(instance).look(key.id, attempt.log_offset, READ)
        seen = steps.Seen(
            instance=InstanceState(instance.state) if instance is not None else None,
            instance_message=instance.message if instance is not None else "",
            started=report.started,
            ending=report.ending,
            lost=report.lost,
            refused=self._refused.get(key.id, ""),
        )
        asked = self._asked.get(key.id, Desired.RUNNING)
        step = steps.next_step(AttemptState(attempt.state), Desired(run.desired), asked, seen)
        if report.data or isinstance(step, steps.Running | steps.Book | steps.End):
            await self._database.write(_store, attempt, instance, report, step)
            self._bus.publish(run.id)
        return await self._after(key, run, attempt, instance, report, step)

    async def _after(
        self,
        key: Key,
        run: Row[Any],
        attempt: Row[Any],
        instance: Row[Any] | None,
        report: JobReport,
        step: steps.Step,
    ) -> Next:
        match step:
            case steps.End():
                self._forget(key.id, instance)
                self._wake(Key("fleet", run.fleet_id))
                return Next()
            case steps.Book() | steps.Launch():
                assert instance is not None
                await self._launch(key, attempt, run, instance)
            case steps.AskToEnd(abort):
                assert instance is not None
                if not await self._machine(instance).end(key.id, abort=abort):
                    return Next(guard=ASK_AGAIN)
                self._asked[key.id] = Desired.ABORTED if abort else Desired.STOPPED
            case steps.Running() | steps.Wait():
                pass
        if instance is not None and report.started:
            self._watch(key, instance)
        if len(report.data) == READ:
            self._wake(key)
            return Next(guard=GUARD)
        return Next(rest=REST if report.data else 0.0, guard=GUARD)

    async def _launch(self, key: Key, attempt: Row[Any], run: Row[Any], instance: Row[Any]) -> None:
        try:
            await self._machine(instance).launch(self._spec(attempt, run, instance))
        except ConfigurationError as error:
            self._refused[key.id] = f"{error.message}; {error.hint}" if error.hint else error.message
            self._wake(key)
            return
        self._watch(key, instance)

    def _watch(self, key: Key, instance: Row[Any]) -> None:
        if key.id not in self._watching:
            self._watching.add(key.id)
            self._machine(instance).watch(key.id, lambda: self._wake(key))

    def _forget(self, attempt_id: str, instance: Row[Any] | None) -> None:
        self._asked.pop(attempt_id, None)
        self._refused.pop(attempt_id, None)
        if attempt_id in self._watching and instance is not None:
            self._watching.discard(attempt_id)
            self._machine(instance).unwatch(attempt_id)


def _store(connection: Connection, attempt: Row[Any], instance: Row[Any] | None, report: JobReport, step: steps.Step) -> None:
    """The outcome of one look in one transaction: bytes with their offset, what was lost, and the move."""
    if report.data and not logs.append(connection, attempt.id, attempt.log_offset, report.data):
        # Somebody stored these bytes already; what this look saw is old. The next look reads on from the new offset.
        return
    match step:
        case steps.Book():
            assert instance is not None
            moves.book(connection, attempt.id, instance.id)
        case steps.Running():
            moves.move_attempt(connection, attempt.id, AttemptState.RUNNING)
        case steps.End():
            if report.ending is not None and report.ending.dropped:
                end = attempt.log_offset + len(report.data)
                logs.gap(connection, attempt.id, end, report.ending.dropped, gap_reason(report.ending))
            moves.end_attempt(connection, attempt.id, step)
        case _:
            pass


def gap_reason(ending: Ending) -> str:
    """What a reader of the log is told about bytes that were discarded at the source."""
    why = "log_limit was reached" if "too large" in ending.dropped_reason.lower() else "the machine's disk was full"
    return f"at least {ending.dropped} bytes were discarded on the machine: {why}"
