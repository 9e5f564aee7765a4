"""The jobs of one run among themselves: who starts first, who ends whom. Pure functions of their rows."""

from __future__ import annotations

from collections.abc import Sequence

from ...models.states import ATTEMPT_END, AttemptState, InstanceState, Reason
from ..store.rows import AttemptRow, InstanceRow, RunRow

Siblings = Sequence[tuple[AttemptRow, InstanceRow | None]]
"""(newest attempt, its present or future instance) of each job of a run, the master first."""

READY = frozenset({InstanceState.IDLE, InstanceState.BUSY})
STARTED = frozenset({AttemptState.RUNNING, *ATTEMPT_END})


def must_wait(attempt: AttemptRow, run: RunRow, siblings: Siblings) -> bool:
    """Whether a job must not start yet: not before every node has its machine, then in the order of ``startup_order``.

    A node needs the addresses of all others in its environment.
    """
    if len(siblings) == 1:
        return False
    if any(other.state not in ATTEMPT_END and (place is None or place.state not in READY) for other, place in siblings):
        return True
    master, *workers = (other for other, _ in siblings)
    order = run.configuration.startup_order
    if order == "master-first" and attempt.id != master.id:
        return master.state not in STARTED
    if order == "workers-first" and attempt.id == master.id:
        return any(worker.state not in STARTED for worker in workers)
    return False


def ends_with(attempt: AttemptRow, run: RunRow, siblings: Siblings) -> tuple[Reason, str] | None:
    """Why a job has to end because of another job; None if the job may go on."""
    if len(siblings) == 1:
        return None
    for other, _ in siblings:
        if other.id != attempt.id and other.state == AttemptState.FAILED:
            who = "the master" if other.job == 0 else f"node {other.job}"
            return Reason.ENDED_BY_SERVER, f"ended because {who} failed: {other.message}"
    master = siblings[0][0]
    if run.configuration.master_decides and attempt.id != master.id and master.state == AttemptState.DONE:
        return Reason.ENDED_BY_SERVER, "ended because the master is done (stop_criteria)"
    return None
