"""The state of a run, derived from its attempts: a pure function, called in every transaction that changes an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...models.states import ATTEMPT_END, AttemptState, Desired, Reason, RunState, WaitsFor


@dataclass(frozen=True, slots=True)
class JobNow:
    """The newest attempt of one job. Times are seconds since the epoch; ``num`` counts its attempts from 0."""

    state: AttemptState
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    num: int = 0
    submitted_at: float = 0.0
    finished_at: float | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What a run's configuration says of its end. ``retry`` are the events after which to try again, '' none.

    ``duration`` is how long, in seconds; ``next_start`` when a schedule starts it again (0: it has none).
    """

    retry: frozenset[str] = frozenset()
    duration: float = 0.0
    master_decides: bool = False
    next_start: float = 0.0

    @property
    def ends_with_its_jobs(self) -> bool:
        """Whether there is no attempt after those that there are."""
        return not self.retry and not self.next_start


@dataclass(frozen=True, slots=True)
class RunNow:
    """``next_at``: when a pending run tries again or begins; ``waits_for`` says what it waits for until then."""

    state: RunState
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    next_at: float | None = None
    waits_for: WaitsFor = WaitsFor.NOTHING


NO_POLICY = Policy()
ENDED_BY_USER = frozenset({AttemptState.TERMINATED, AttemptState.ABORTED})
BEFORE_RUNNING = frozenset({AttemptState.PROVISIONING, AttemptState.PULLING})
DELAYS = (15, 30, 60, 120, 300, 600)
"""Seconds before each new attempt, dstack's; the last one repeats."""


def event_of(reason: str) -> str:
    """The retry event that a failed attempt means."""
    if reason == Reason.NO_CAPACITY:
        return "no-capacity"
    return "interruption" if reason in (Reason.INTERRUPTED, Reason.INSTANCE_UNREACHABLE) else "error"


def derive(
    jobs: Sequence[JobNow], desired: Desired, policy: Policy = NO_POLICY, *, submitted_at: float = 0.0, now: float = 0.0
) -> RunNow:
    """The run's state. A run ends only when each of its jobs has; the worst job gives the verdict.

    ``jobs`` in the order of their numbers: the first is the master.
    """
    if not jobs or any(job.state not in ATTEMPT_END for job in jobs):
        return RunNow(_unfinished(jobs, desired))
    verdict = _verdict(jobs, policy)
    if desired is not Desired.RUNNING:
        return verdict
    if verdict.state is RunState.FAILED and policy.retry:
        verdict = _try_again(jobs, policy, submitted_at, now, verdict)
    if verdict.state in (RunState.DONE, RunState.FAILED) and policy.next_start:
        ended = "ended well" if verdict.state is RunState.DONE else f"failed ({verdict.message})"
        message = f"the last start {ended}; waiting for the schedule"
        return RunNow(RunState.PENDING, "", message, next_at=policy.next_start, waits_for=WaitsFor.SCHEDULE)
    return verdict


def _verdict(jobs: Sequence[JobNow], policy: Policy) -> RunNow:
    if policy.master_decides and jobs[0].state is AttemptState.DONE:
        return RunNow(RunState.DONE, Reason.ALL_JOBS_DONE, "", 0)
    failed = next((job for job in jobs if job.state is AttemptState.FAILED), None)
    if failed is not None:
        return RunNow(RunState.FAILED, Reason.JOB_FAILED, failed.message, failed.exit_code)
    ended = next((job for job in jobs if job.state in ENDED_BY_USER and job.reason != Reason.ENDED_BY_SERVER), None)
    if ended is not None:
        reason = {
            Reason.TERMINATED_BY_USER: Reason.STOPPED_BY_USER,
            Reason.ABORTED_BY_USER: Reason.ABORTED_BY_USER,
        }.get(Reason(ended.reason), Reason(ended.reason))
        return RunNow(RunState.TERMINATED, reason, ended.message, ended.exit_code)
    return RunNow(RunState.DONE, Reason.ALL_JOBS_DONE, "", 0)


def _try_again(jobs: Sequence[JobNow], policy: Policy, submitted_at: float, now: float, verdict: RunNow) -> RunNow:
    failed = [job for job in jobs if job.state is AttemptState.FAILED]
    if any(event_of(job.reason) not in policy.retry for job in failed):
        return verdict
    # Without capacity the run's own age counts; after that, how long the last attempt that had a machine is ago.
    since = min(submitted_at if event_of(job.reason) == "no-capacity" else job.submitted_at for job in failed)
    tries = max(job.num for job in jobs)
    next_at = max(job.finished_at or now for job in jobs) + DELAYS[min(tries, len(DELAYS) - 1)]
    if next_at - since > policy.duration:
        message = f"{verdict.message}; retry.duration is over after {tries + 1} attempts"
        return RunNow(RunState.FAILED, Reason.RETRY_LIMIT, message, verdict.exit_code)
    without = all(job.reason == Reason.NO_CAPACITY for job in failed)
    waits_for = WaitsFor.CAPACITY if without else WaitsFor.BACKOFF
    return RunNow(RunState.PENDING, "", f"{failed[0].message}; trying again", next_at=next_at, waits_for=waits_for)


def _unfinished(jobs: Sequence[JobNow], desired: Desired) -> RunState:
    if desired is not Desired.RUNNING:
        return RunState.TERMINATING
    if not jobs:
        return RunState.PENDING
    states = {job.state for job in jobs}
    if AttemptState.RUNNING in states:
        return RunState.RUNNING
    if states & BEFORE_RUNNING:
        return RunState.PROVISIONING
    return RunState.SUBMITTED
