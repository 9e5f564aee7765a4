"""The states of runs, attempts, instances and fleets, and which of them are an end.

The words are dstack's (reference ``lifecycle`` §2). ``stuck``, ``unreachable`` and ``unknown`` are conditions, never states.
The store's guards are made from the ``…_END`` sets: who has reached an end cannot be written back to life by anybody (R4).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class RunState(StrEnum):
    PENDING = "pending"
    SUBMITTED = "submitted"
    PROVISIONING = "provisioning"
    RUNNING = "running"
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    FAILED = "failed"
    DONE = "done"


class AttemptState(StrEnum):
    SUBMITTED = "submitted"
    PROVISIONING = "provisioning"
    PULLING = "pulling"
    RUNNING = "running"
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    ABORTED = "aborted"
    FAILED = "failed"
    DONE = "done"


class InstanceState(StrEnum):
    PENDING = "pending"
    PROVISIONING = "provisioning"
    IDLE = "idle"
    BUSY = "busy"
    TERMINATING = "terminating"
    TERMINATED = "terminated"


class FleetState(StrEnum):
    ACTIVE = "active"
    TERMINATING = "terminating"
    TERMINATED = "terminated"


class Desired(StrEnum):
    """What the user wants of a run. A stop asked at any moment wins (R6)."""

    RUNNING = "running"
    STOPPED = "stopped"
    ABORTED = "aborted"


class WaitsFor(StrEnum):
    """What a pending run waits for."""

    NOTHING = ""
    CAPACITY = "capacity"
    """A machine: one that can be had ends the wait before its time."""
    BACKOFF = "backoff"
    SCHEDULE = "schedule"


RUN_END: Final = frozenset({RunState.TERMINATED, RunState.FAILED, RunState.DONE})
ATTEMPT_END: Final = frozenset({AttemptState.TERMINATED, AttemptState.ABORTED, AttemptState.FAILED, AttemptState.DONE})
INSTANCE_END: Final = frozenset({InstanceState.TERMINATED})
INSTANCE_ENDING: Final = INSTANCE_END | {InstanceState.TERMINATING}
FLEET_END: Final = frozenset({FleetState.TERMINATED})


class Reason(StrEnum):
    """Why an attempt or a run ended. The words of dstack where it has one."""

    DONE_BY_RUNNER = "done_by_runner"
    ALL_JOBS_DONE = "all_jobs_done"
    JOB_FAILED = "job_failed"
    EXITED_WITH_ERROR = "container_exited_with_error"
    CREATING_ERROR = "creating_container_error"
    EXECUTOR_ERROR = "executor_error"
    MAX_DURATION = "max_duration_exceeded"
    STOPPED_BY_USER = "stopped_by_user"
    TERMINATED_BY_USER = "terminated_by_user"
    ABORTED_BY_USER = "aborted_by_user"
    NO_CAPACITY = "failed_to_start_due_to_no_capacity"
    INSTANCE_UNREACHABLE = "instance_unreachable"
    INTERRUPTED = "interrupted_by_no_capacity"
    RETRY_LIMIT = "retry_limit_exceeded"
    ENDED_BY_SERVER = "terminated_by_server"
    INACTIVITY = "inactivity_duration_exceeded"
    UTILIZATION = "terminated_due_to_utilization_policy"
