"""What a run's configuration says of retries, schedules and who decides its end, as the pure steps need it."""

from __future__ import annotations

from datetime import UTC, datetime

from ...models.profiles import Retry
from ...models.stored import StoredRun
from .run import NO_POLICY, Policy


def policy_of(configuration: StoredRun, now: float) -> Policy:
    """``now`` in seconds since the epoch, the database's time."""
    if not configuration.has_policies:
        return NO_POLICY
    run = configuration.task
    retry = Retry() if run.retry is True else run.retry or None
    return Policy(
        retry=frozenset(retry.on_events) if retry else frozenset(),
        duration=float(retry.duration) if retry else 0.0,
        master_decides=configuration.master_decides,
        next_start=next_start(configuration, now),
    )


def next_start(configuration: StoredRun, now: float) -> float:
    """When the schedule of a run starts it next, in seconds since the epoch; 0 if it has none."""
    lines = configuration.cron
    if not lines:
        return 0.0
    from cronsim import CronSim

    moment = datetime.fromtimestamp(now, UTC)
    return min(next(CronSim(line, moment)).timestamp() for line in lines)
