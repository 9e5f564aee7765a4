"""What a run's configuration says of retries, schedules and who decides its end, as the pure steps need it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ...models.configurations import run_configuration
from ...models.profiles import Retry
from .run import NO_POLICY, Policy


def policy_of(configuration: dict[str, Any], now: float) -> Policy:
    """The policy of a stored configuration; ``now`` in seconds since the epoch, the database's time."""
    if not any(configuration.get(key) for key in ("retry", "schedule", "stop_criteria")):
        return NO_POLICY
    run = run_configuration(configuration)
    retry = Retry() if run.retry is True else run.retry or None
    return Policy(
        retry=frozenset(retry.on_events) if retry else frozenset(),
        duration=float(retry.duration) if retry else 0.0,
        master_decides=run.stop_criteria == "master-done",
        next_start=next_start(configuration, now),
    )


def next_start(configuration: dict[str, Any], now: float) -> float:
    """When the schedule of a run starts it next, in seconds since the epoch; 0 if it has none."""
    schedule = configuration.get("schedule")
    if not schedule:
        return 0.0
    from cronsim import CronSim

    lines = schedule["cron"] if isinstance(schedule["cron"], list) else [schedule["cron"]]
    moment = datetime.fromtimestamp(now, UTC)
    return min(next(CronSim(line, moment)).timestamp() for line in lines)
