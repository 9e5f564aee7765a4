"""What to do next about a fleet of clouds' machines: pure functions (D4).

It is to have ``least`` machines and begins with ``target``; runs book them, and may make it grow to ``most``. What is idle for
too long goes, down to ``least``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...models.states import INSTANCE_ENDING, InstanceState


@dataclass(frozen=True, slots=True)
class Size:
    """How many machines a fleet is to have; ``most`` None: no bound. ``idle``: seconds without a job; None: for ever."""

    least: int
    target: int
    most: int | None
    idle: float | None


@dataclass(frozen=True, slots=True)
class MachineNow:
    """``free``: no run has it or waits for it. ``idle_for``: seconds since it has no job; None where it never was ready."""

    id: str
    state: InstanceState
    free: bool = True
    idle_for: float | None = None

    @property
    def living(self) -> bool:
        return self.state not in INSTANCE_ENDING


@dataclass(frozen=True, slots=True)
class Want:
    """Store the intent of one more machine (R1)."""


@dataclass(frozen=True, slots=True)
class Release:
    """A machine is not needed any more."""

    instance_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes, or, where ``seconds`` are given, until they have passed."""

    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Close:
    """It is to go and has nothing left."""


Step = Want | Release | Wait | Close


def next_step(machines: Sequence[MachineNow], size: Size, *, deleted: bool = False) -> Step:
    living = [each for each in machines if each.living]
    free = [each for each in living if each.free]
    if deleted:
        if free:
            return Release(free[0].id, "its fleet is deleted")
        return Wait() if any(each.state is not InstanceState.TERMINATED for each in machines) else Close()
    # Those that are no use yet go before those that are ready.
    dearest = sorted(free, key=lambda each: (each.idle_for is not None, -(each.idle_for or 0.0)))
    if size.most is not None and len(living) > size.most and dearest:
        return Release(dearest[0].id, "the fleet is to have fewer machines")
    made = sum(each.living or each.idle_for is not None for each in machines)
    bounded = size.most is not None and len(living) >= size.most
    if len(living) < size.least or (made < size.target and not bounded):
        return Want()
    return idle_step(free, size.idle, surplus=len(living) - size.least)


def idle_step(free: Sequence[MachineNow], idle: float | None, *, surplus: int) -> Release | Wait:
    """Whether one of the machines without a job has had none for too long; ``surplus``: how many may go at all."""
    if idle is None or surplus <= 0:
        return Wait()
    waiting = sorted((each.idle_for, each.id) for each in free if each.state is InstanceState.IDLE and each.idle_for is not None)
    if not waiting:
        return Wait()
    longest, instance_id = waiting[-1]
    if longest >= idle:
        return Release(instance_id, f"it had no job for {longest:.0f} s")
    return Wait(idle - longest)
