"""Guards that end an idle running job: utilization_policy and inactivity_duration."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from ...machines.base import Machine
from ...models.configurations import AnyRun, DevEnvironmentConfiguration
from ...models.states import ATTEMPT_END, AttemptState, InstanceState, Reason
from ..jobs.forwards import Forwards
from ..jobs.spec import gpus_of
from ..runtime.queue import Key, Next
from ..store import bookings, moves
from ..store.database import Database
from ..store.rows import InstanceRow

EVERY = 10.0
"""Seconds between two samples of a job's GPUs, as in dstack."""
MISSING = 60.0
"""Seconds that the samples may lack of the window."""


def watched(task: AnyRun) -> bool:
    """Whether a run has a policy that must be watched."""
    return task.utilization_policy is not None or inactivity_of(task) > 0


def inactivity_of(task: AnyRun) -> float:
    limit = task.inactivity_duration if isinstance(task, DevEnvironmentConfiguration) else None
    return float(limit) if isinstance(limit, int) else 0.0


def underused(samples: deque[tuple[float, list[int]]], window: float, least: int) -> bool:
    """Whether any GPU stayed below ``least`` percent for the whole window: dstack's rule. Samples are (seconds, percents)."""
    if not samples or samples[-1][0] - samples[0][0] < window - MISSING:
        return False
    recent = [percents for at, percents in samples if samples[-1][0] - at <= window]
    return any(all(value < least for value in gpu) for gpu in zip(*recent, strict=False))


class Watchdog:
    """Handles the ``guard`` keys of the work queue: one key for each running job with a policy.

    Samples live in memory only. A restart of the engine begins each window anew: a job ends later, never sooner.
    """

    def __init__(
        self,
        database: Database,
        machine: Callable[[InstanceRow], Machine],
        forwards: Forwards,
        kill_requests: dict[str, tuple[Reason, str]],
        wake: Callable[[Key], None],
    ) -> None:
        self._database = database
        self._machine = machine
        self._forwards = forwards
        self._kill_requests = kill_requests
        self._wake = wake
        self._samples: dict[str, deque[tuple[float, list[int]]]] = {}

    async def reconcile(self, key: Key) -> Next:
        attempt, run, instance = await self._database.read(moves.load_attempt, key.id)
        if attempt.state in ATTEMPT_END or instance is None:
            self._samples.pop(key.id, None)
            return Next()
        if attempt.state != AttemptState.RUNNING or instance.state != InstanceState.BUSY:
            return Next(guard=EVERY)
        task = run.configuration.task
        verdict = await self._judge(key.id, task, instance)
        if verdict is not None and key.id not in self._kill_requests:
            self._kill_requests[key.id] = verdict
            self._wake(Key("attempt", key.id))
        return Next(guard=EVERY)

    async def _judge(self, attempt_id: str, task: AnyRun, instance: InstanceRow) -> tuple[Reason, str] | None:
        limit = inactivity_of(task)
        if limit and (idle := self._forwards.idle_seconds(attempt_id)) > limit:
            return Reason.INACTIVITY, f"nobody was connected for {int(idle)} s (inactivity_duration)"
        policy = task.utilization_policy
        if policy is None:
            return None
        blocks = await self._database.read(bookings.blocks_of, attempt_id)
        gpus = tuple(gpus_of(instance, blocks))
        percents = await self._machine(instance).utilization(instance.offer.gpu_vendor, gpus)
        if not percents:
            return None
        samples = self._samples.setdefault(attempt_id, deque(maxlen=int(policy.time_window / EVERY) + 12))
        samples.append((time.monotonic(), percents))
        if underused(samples, float(policy.time_window), policy.min_gpu_utilization):
            text = f"a GPU stayed below {policy.min_gpu_utilization} % for {policy.time_window} s (utilization_policy)"
            return Reason.UTILIZATION, text
        return None
