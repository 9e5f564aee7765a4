"""The state of a run, derived from its attempts: a pure function, called in every transaction that changes an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...models.states import ATTEMPT_END, AttemptState, Desired, Reason, RunState


@dataclass(frozen=True, slots=True)
class JobNow:
    """The newest attempt of one job."""

    state: AttemptState
    reason: str = ""
    message: str = ""
    exit_code: int | None = None


@dataclass(frozen=True, slots=True)
class RunNow:
    state: RunState
    reason: str = ""
    message: str = ""
    exit_code: int | None = None


ENDED_BY_USER = frozenset({AttemptState.TERMINATED, AttemptState.ABORTED})
BEFORE_RUNNING = frozenset({AttemptState.PROVISIONING, AttemptState.PULLING})


def derive(jobs: Sequence[JobNow], desired: Desired) -> RunNow:
    """The run's state. A run ends only when each of its jobs has; the worst job gives the verdict."""
    if any(job.state not in ATTEMPT_END for job in jobs):
        return RunNow(_unfinished(jobs, desired))
    failed = next((job for job in jobs if job.state is AttemptState.FAILED), None)
    if failed is not None:
        return RunNow(RunState.FAILED, Reason.JOB_FAILED, failed.message, failed.exit_code)
    ended = next((job for job in jobs if job.state in ENDED_BY_USER), None)
    if ended is not None:
        reason = {
            Reason.TERMINATED_BY_USER: Reason.STOPPED_BY_USER,
            Reason.ABORTED_BY_USER: Reason.ABORTED_BY_USER,
        }.get(Reason(ended.reason), Reason(ended.reason))
        return RunNow(RunState.TERMINATED, reason, ended.message, ended.exit_code)
    return RunNow(RunState.DONE, Reason.ALL_JOBS_DONE, "", 0)


def _unfinished(jobs: Sequence[JobNow], desired: Desired) -> RunState:
    if desired is not Desired.RUNNING:
        return RunState.TERMINATING
    states = {job.state for job in jobs}
    if AttemptState.RUNNING in states:
        return RunState.RUNNING
    if states & BEFORE_RUNNING:
        return RunState.PROVISIONING
    return RunState.SUBMITTED
