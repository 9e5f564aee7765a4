"""The attempt reconciler: looks at a job, asks ``steps.attempt`` for the next step, does and stores that step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sqlalchemy import Connection

from ...machines.base import DroppedReason, Ending, JobReport, JobSpec, Machine, Phase
from ...models.errors import ConfigurationError, Unreachable
from ...models.offers import OWN_MACHINES
from ...models.states import ATTEMPT_END, INSTANCE_ENDING, RUN_END, AttemptState, Desired, InstanceState, Reason
from ..jobs.nodes import Siblings, ends_with, must_wait
from ..runtime.bus import Bus
from ..runtime.queue import Key, Next
from ..steps import attempt as steps
from ..store import bookings, logs, moves
from ..store.database import Database
from ..store.rows import AttemptRow, InstanceRow, RunRow

READ = 1 << 20
"""Bytes of log that one look takes: large enough for 350 k lines/s, small enough for one transaction."""
REST = 0.02
"""Seconds between two looks at a job that writes: bytes are stored in blocks; the first after a silence goes at once."""
ASK_AGAIN = 0.1
"""Seconds until the next try for a job that could not be told to end, or could not be reached yet."""
KILL_AGAIN = 1.0
"""Seconds until a job that was killed and still runs is killed again."""
REMEMBERED = 4096
"""Ended attempts that this engine remembers as finished."""
GUARD = 30.0
"""Seconds between two looks at a running job when nothing wakes its key."""

SpecBuilder = Callable[[AttemptRow, RunRow, InstanceRow, Siblings, list[int]], Awaitable[JobSpec]]


class AttemptReconciler:
    """Handles the ``attempt`` keys of the work queue, on the engine's loop.

    ``machine`` finds the machine of an instance row, ``spec`` makes the job of (attempt, run, instance, siblings), ``wake`` adds
    a key. ``kill_requests`` holds why a guard ends a job, by attempt; ``running`` hears of each job that is first seen running
    (by this process) until it returns true, ``ended`` of each that has ended.
    """

    def __init__(
        self,
        database: Database,
        bus: Bus,
        machine: Callable[[InstanceRow], Machine],
        spec: SpecBuilder,
        wake: Callable[[Key], None],
        kill_requests: dict[str, tuple[Reason, str]],
        running: Callable[[AttemptRow, RunRow, InstanceRow], Awaitable[bool]],
        ended: Callable[[str], None],
    ) -> None:
        self._kill_requests = kill_requests
        self._running = running
        self._ended = ended
        self._database = database
        self._bus = bus
        self._machine = machine
        self._spec = spec
        self._wake = wake
        self._asked: dict[str, Desired] = {}
        self._refused: dict[str, str] = {}
        self._watching: dict[str, Machine] = {}
        self._finished: dict[str, None] = {}
        self._seen_running: set[str] = set()

    async def reconcile(self, key: Key) -> Next:
        """Do one look and one step; ask for another call while there is more to do at once."""
        if key.id in self._finished:
            return Next()  # its machine had a last word after the end
        attempt, run, instance, siblings, blocks = await self._database.read(_load, key.id)
        if attempt.state in ATTEMPT_END:
            return await self._finish(key, attempt, instance)
        report = JobReport(started=False)
        if instance is not None and is_leaving(instance):
            # The machine is gone or about to be, and the job with it. Nobody knows how much more log there was: a gap without a
            # length (R13).
            lost = f"the machine was lost: {instance.message}; its log was read up to byte {attempt.log_offset}"
            report = JobReport(started=True, lost=lost, interrupted=True)
        elif instance is not None and instance.state in (InstanceState.BUSY, InstanceState.TERMINATING):
            report = await self._machine(instance).look(key.id, attempt.log_offset, READ)
        desired, because = run.desired, None
        if desired is Desired.RUNNING:
            because = self._kill_requests.get(key.id) or ends_with(attempt, run, siblings)
            desired = Desired.STOPPED if because else desired
        seen = steps.Observation(
            instance=instance.state if instance is not None else None,
            instance_message=instance.message if instance is not None else "",
            started=report.started,
            ending=report.ending,
            lost=report.lost,
            refused=self._refused.get(key.id, "") or report.refused,
            preparing=report.preparing,
            interrupted=report.interrupted,
            hold=must_wait(attempt, run, siblings),
            because=because,
        )
        asked = self._asked.get(key.id, Desired.RUNNING)
        step = steps.next_step(attempt.state, desired, asked, seen)
        if (
            isinstance(step, steps.End)
            and instance is not None
            and attempt.instance_id is not None
            and is_cloud_instance(instance)
        ):
            # The attempt's end frees the machine for the next job, which must find nothing of this job.
            await self._let_go(key.id, instance)
        if report.data or isinstance(step, steps.Running | steps.Book | steps.Prepare | steps.End):
            try:
                state = await self._database.write(_store, attempt, instance, report, step)
            except _Stale:
                self._wake(key)
                return Next()
            self._bus.publish(run.id)
            if isinstance(step, steps.End):
                self._wake(Key("fleet", run.fleet_id))
                if instance is not None and is_cloud_instance(instance) and instance.fleet_id != run.fleet_id:
                    self._wake(Key("fleet", instance.fleet_id))
                if state not in RUN_END:
                    self._wake(Key("run", run.id))
        if len(siblings) > 1 and isinstance(step, steps.Running | steps.Book | steps.End):
            for other, _ in siblings:
                if other.id != key.id:
                    self._wake(Key("attempt", other.id))
        if isinstance(step, steps.Running) and desired is not Desired.RUNNING:
            # The job was told to end while it began. The wake of that request is used up: wake again.
            self._wake(key)
        return await self._after(key, run, attempt, instance, report, step, siblings, blocks)

    async def _finish(self, key: Key, attempt: AttemptRow, instance: InstanceRow | None) -> Next:
        """Release what an ended attempt holds. A restart repeats this, since no row says that it was done."""
        self.forget(key.id)
        if instance is not None and attempt.instance_id is not None and key.id not in self._finished:
            await self._let_go(key.id, instance)
            self._finished[key.id] = None
            while len(self._finished) > REMEMBERED:
                del self._finished[next(iter(self._finished))]
        return Next()

    async def _let_go(self, attempt_id: str, instance: InstanceRow) -> None:
        """Clean up after a job. A cloud instance that ends needs no cleaning."""
        try:
            if not is_leaving(instance):
                await self._machine(instance).finish(attempt_id)
        except Unreachable:
            _, _, now = await self._database.read(moves.load_attempt, attempt_id)
            if now is None or not is_leaving(now):
                raise

    async def _after(
        self,
        key: Key,
        run: RunRow,
        attempt: AttemptRow,
        instance: InstanceRow | None,
        report: JobReport,
        step: steps.Step,
        siblings: Siblings,
        blocks: list[int],
    ) -> Next:
        unready = False
        match step:
            case steps.End():
                self._ended(key.id)
                return await self._finish(key, attempt, instance)
            case steps.Book():
                assert instance is not None
                if not must_wait(attempt, run, siblings):
                    await self._launch(key, attempt, run, instance, siblings, blocks)
            case steps.Launch():
                assert instance is not None
                await self._launch(key, attempt, run, instance, siblings, blocks)
            case steps.AskToEnd(abort):
                assert instance is not None
                if not await self._machine(instance).end(key.id, abort=abort):
                    return Next(guard=ASK_AGAIN)
                self._asked[key.id] = Desired.ABORTED if abort else Desired.STOPPED
            case steps.Running() | steps.Prepare() | steps.Wait():
                if report.started and instance is not None and key.id not in self._seen_running:
                    if await self._running(attempt, run, instance):
                        self._seen_running.add(key.id)
                        self._bus.publish(run.id)
                    else:
                        unready = True
        if instance is not None and (report.started or report.preparing):
            self._watch(key, instance)
        if len(report.data) == READ:
            self._wake(key)
            return Next(guard=GUARD)
        guard = KILL_AGAIN if step == steps.AskToEnd(abort=True) else ASK_AGAIN if unready else GUARD
        return Next(rest=REST if report.data else 0.0, guard=guard)

    async def _launch(
        self, key: Key, attempt: AttemptRow, run: RunRow, instance: InstanceRow, siblings: Siblings, blocks: list[int]
    ) -> None:
        try:
            await self._machine(instance).launch(await self._spec(attempt, run, instance, siblings, blocks))
        except ConfigurationError as error:
            self._refused[key.id] = error.text
            self._wake(key)
            return
        self._watch(key, instance)

    def _watch(self, key: Key, instance: InstanceRow) -> None:
        if key.id not in self._watching:
            self._watching[key.id] = machine = self._machine(instance)
            machine.watch(key.id, lambda: self._wake(key))

    def forget(self, attempt_id: str) -> None:
        """Drop the memory of an attempt: the attempt has ended, or another engine acts for it now."""
        self._asked.pop(attempt_id, None)
        self._seen_running.discard(attempt_id)
        self._kill_requests.pop(attempt_id, None)
        self._refused.pop(attempt_id, None)
        machine = self._watching.pop(attempt_id, None)
        if machine is not None:
            machine.unwatch(attempt_id)


def is_cloud_instance(instance: InstanceRow) -> bool:
    return instance.backend not in OWN_MACHINES


def is_leaving(instance: InstanceRow) -> bool:
    """Whether a cloud instance is gone or about to be: its address may be a stranger's by now."""
    return is_cloud_instance(instance) and instance.state in INSTANCE_ENDING


def _load(connection: Connection, attempt_id: str) -> tuple[AttemptRow, RunRow, InstanceRow | None, Siblings, list[int]]:
    """(attempt, run, instance, all jobs of the run, the blocks that the attempt has booked)."""
    attempt, run, instance = moves.load_attempt(connection, attempt_id)
    if instance is not None and attempt.instance_id is None and is_leaving(instance):
        instance = None  # this machine never had the job: the fleet finds another
    siblings = [(attempt, instance)] if run.configuration.nodes == 1 else moves.load_siblings(connection, run.id)
    blocks = bookings.blocks_of(connection, attempt_id) if instance is not None and instance.backend == "ssh" else []
    return attempt, run, instance, siblings, blocks


def _store(connection: Connection, attempt: AttemptRow, instance: InstanceRow | None, report: JobReport, step: steps.Step) -> str:
    """Store one look in one transaction: bytes with their offset, lost bytes, and the move.

    Returns the run's state if the move may have changed it, else ''. Raises _Stale.
    """
    if report.data and not logs.append(connection, attempt.id, attempt.log_offset, report.data):
        raise _Stale
    match step:
        case steps.Book():
            assert instance is not None
            if not moves.book(connection, attempt.id, instance.id):
                raise _Stale
        case steps.Running():
            if attempt.message:
                moves.say_of_attempt(connection, attempt.id, "")
            moves.move_attempt(connection, attempt.id, AttemptState.RUNNING)
        case steps.Prepare(preparing):
            moves.say_of_attempt(connection, attempt.id, preparing.message)
            if preparing.phase is Phase.PULLING and attempt.state == AttemptState.PROVISIONING:
                moves.move_attempt(connection, attempt.id, AttemptState.PULLING)
        case steps.End():
            if report.ending is not None and report.ending.dropped:
                end = attempt.log_offset + len(report.data)
                logs.gap(connection, attempt.id, end, report.ending.dropped, gap_reason(report.ending))
            return moves.end_attempt(connection, attempt.id, step)
        case _:
            pass
    return ""


class _Stale(Exception):
    """This look is out of date: its bytes are stored already, or the machine is to end. The next look is current."""


def gap_reason(ending: Ending) -> str:
    """The text that a log's reader sees for bytes discarded at the source."""
    limited = ending.dropped_reason is DroppedReason.LOG_LIMIT
    why = "log_limit was reached" if limited else "the machine's disk was full"
    return f"at least {ending.dropped} bytes were discarded on the machine: {why}"
