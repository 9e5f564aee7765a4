"""What to do next about an attempt: a pure function of what is stored and what was seen (D4).

Called by the attempt reconciler after each look at the job, with nothing remembered in between: recovery after a crash is
the same call. One step at a time; the reconciler carries it out, stores the outcome and calls again.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...machines.base import DroppedReason, Ending, Preparing
from ...models.states import ATTEMPT_END, AttemptState, Desired, InstanceState, Reason


@dataclass(frozen=True, slots=True)
class Observation:
    """What the reconciler saw. ``started``, ``ending`` and ``lost`` are those of ``machines.base.JobReport``."""

    instance: InstanceState | None = None
    instance_message: str = ""
    started: bool = False
    ending: Ending | None = None
    lost: str = ""
    refused: str = ""
    """Why the machine refused to start the job (a fault of what was asked for); '' if it did not."""
    preparing: Preparing | None = None
    """What a launch that was begun still does; None when none is under way."""
    interrupted: bool = False
    hold: bool = False
    """Whether the job must wait for its siblings before it starts."""
    because: tuple[Reason, str] | None = None
    """Why the engine itself ends the job, and in words; None where the user does."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes."""


@dataclass(frozen=True, slots=True)
class Book:
    """Take the idle instance for this attempt."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Start the job on the booked instance; repeating it is harmless."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Store what the launch does at the moment."""

    preparing: Preparing


@dataclass(frozen=True, slots=True)
class Running:
    """Store that the job runs."""


@dataclass(frozen=True, slots=True)
class AskToEnd:
    """Tell the job to stop (or kill it)."""

    abort: bool


@dataclass(frozen=True, slots=True)
class End:
    """The attempt is over."""

    state: AttemptState
    reason: Reason
    message: str = ""
    exit_code: int | None = None


Step = Wait | Book | Launch | Prepare | Running | AskToEnd | End
LAUNCHED = frozenset({AttemptState.PROVISIONING, AttemptState.PULLING})

REMOVED = (
    "somebody removed the job's folder from the machine while the job ran: its files are gone, what was alive of it is ended"
)
EXIT_HINTS = {
    126: "a command was found but could not be executed",
    127: "a command was not found",
    137: "killed (SIGKILL), often because memory ran out",
    139: "crashed (segmentation fault)",
    143: "ended by a signal (SIGTERM)",
}


def next_step(state: AttemptState, desired: Desired, asked: Desired, seen: Observation) -> Step:
    """The next step.

    ``desired`` is what the user wants of the run, ``asked`` what the job was last told (not stored: asking again after a
    restart of the engine is harmless).
    """
    if state in ATTEMPT_END:
        return Wait()
    if seen.started:
        return _of_started_job(state, desired, asked, seen)
    if desired is not Desired.RUNNING:
        # A launch may be under way on the machine: it is told first, so that nothing begins after the end.
        if state in LAUNCHED and asked is not desired and seen.instance is InstanceState.BUSY:
            return AskToEnd(abort=desired is Desired.ABORTED)
        return _ended(desired, seen)
    if seen.refused:
        return End(AttemptState.FAILED, Reason.CREATING_ERROR, seen.refused)
    if seen.preparing:
        return Prepare(seen.preparing)
    match seen.instance:
        case None | InstanceState.PENDING | InstanceState.PROVISIONING:
            return Wait()
        case InstanceState.IDLE:
            # The nodes of a run take their machines together: while one has none, the others can still be given up.
            return Wait() if seen.hold else Book()
        case InstanceState.BUSY:
            if state is AttemptState.RUNNING:
                # The job was seen running: another launch would run it twice. The attempt's end kills what is alive of it.
                return End(AttemptState.FAILED, Reason.EXECUTOR_ERROR, REMOVED)
            return Wait() if seen.hold else Launch()
        case InstanceState.TERMINATING | InstanceState.TERMINATED:
            return End(AttemptState.FAILED, Reason.NO_CAPACITY, seen.instance_message or "no machine could be had")


def _of_started_job(state: AttemptState, desired: Desired, asked: Desired, seen: Observation) -> Step:
    if seen.ending is not None:
        return _end_of_job(desired, seen.ending, seen)
    if seen.lost:
        if desired is not Desired.RUNNING:
            return _ended(desired, seen)
        reason = Reason.INTERRUPTED if seen.interrupted else Reason.EXECUTOR_ERROR
        return End(AttemptState.FAILED, reason, seen.lost)
    if state in (AttemptState.SUBMITTED, AttemptState.PROVISIONING, AttemptState.PULLING):
        return Running()
    if desired is Desired.ABORTED:
        # Killing twice is killing once: said again until it is over.
        return AskToEnd(abort=True)
    if desired is not Desired.RUNNING and asked is not desired:
        return AskToEnd(abort=False)
    return Wait()


def _ended(desired: Desired, seen: Observation, exit_code: int | None = None) -> End:
    if seen.because is not None:
        return End(AttemptState.TERMINATED, seen.because[0], seen.because[1], exit_code)
    if desired is Desired.ABORTED:
        return End(AttemptState.ABORTED, Reason.ABORTED_BY_USER, "aborted by the user", exit_code)
    return End(AttemptState.TERMINATED, Reason.TERMINATED_BY_USER, "stopped by the user", exit_code)


def _end_of_job(desired: Desired, ending: Ending, seen: Observation) -> Step:
    code = ending.exit_code
    if ending.cause == "max_duration":
        return End(AttemptState.TERMINATED, Reason.MAX_DURATION, "ended because max_duration was over", code)
    if ending.cause and desired is not Desired.RUNNING:
        return _ended(desired, seen, code)
    if ending.cause:
        return End(AttemptState.FAILED, Reason.EXECUTOR_ERROR, "ended from outside: somebody signalled the supervisor", code)
    if ending.dropped and ending.dropped_reason is not DroppedReason.LOG_LIMIT:
        return End(
            AttemptState.FAILED,
            Reason.EXECUTOR_ERROR,
            f"the machine's disk was full: about {ending.dropped} bytes of output could not be kept (exit code {code})",
            code,
        )
    if code == 0:
        return End(AttemptState.DONE, Reason.DONE_BY_RUNNER, "", 0)
    hint = EXIT_HINTS.get(code, "")
    return End(AttemptState.FAILED, Reason.EXITED_WITH_ERROR, f"exit code {code}" + (f": {hint}" if hint else ""), code)
