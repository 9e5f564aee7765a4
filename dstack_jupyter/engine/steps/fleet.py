"""What to do next about a fleet and its instances: pure functions (D4).

Only the fleet reconciler creates, idles or deletes instances; runs book them. Each run makes a fleet of its own name, which goes
with its last instance; the fleets that users apply are those of ``cloud_fleet``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...models.states import ATTEMPT_END, INSTANCE_ENDING, AttemptState, Desired, InstanceState


@dataclass(frozen=True, slots=True)
class InstanceNow:
    """``rented``: the instance reconciler makes and ends it; here it is only wanted and released. ``attempt_id`` None: runs share
    it. ``keeps``: it outlives the job that it was made for; ``elsewhere``: since it is of another fleet, which has to end it."""

    id: str
    state: InstanceState
    attempt_id: str | None
    rented: bool = False
    keeps: bool = False
    elsewhere: bool = False


@dataclass(frozen=True, slots=True)
class AttemptNow:
    """``booked``: it has a place on a machine of another fleet."""

    id: str
    state: AttemptState
    booked: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until something changes."""


@dataclass(frozen=True, slots=True)
class Want:
    """Store the intent to have an instance for this attempt (R1); the call follows in a later step."""

    attempt_id: str


@dataclass(frozen=True, slots=True)
class Create:
    """Make the vendor call of a stored intent; repeating it with the same identity makes no second machine."""

    instance_id: str


@dataclass(frozen=True, slots=True)
class Release:
    """Store that the instance is to go."""

    instance_id: str


@dataclass(frozen=True, slots=True)
class Keep:
    """The instance is for other jobs from now on."""

    instance_id: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """Make the vendor call that ends the instance, until the vendor says it is gone (R3)."""

    instance_id: str


@dataclass(frozen=True, slots=True)
class Close:
    """The fleet has nothing left and nothing to wait for."""


Step = Wait | Want | Create | Release | Keep | Terminate | Close


def next_step(
    attempts: Sequence[AttemptNow], instances: Sequence[InstanceNow], desired: Desired, *, run_ended: bool = True
) -> Step:
    """The next step for a run's own fleet. A run that may try again keeps it."""
    unfinished = {attempt.id for attempt in attempts if attempt.state not in ATTEMPT_END}
    for instance in instances:
        if instance.attempt_id is None:
            continue
        if instance.elsewhere and instance.state not in INSTANCE_ENDING and instance.attempt_id not in unfinished:
            return Keep(instance.id)
        match instance.state:
            case InstanceState.TERMINATING if not instance.rented:
                return Terminate(instance.id)
            case InstanceState.IDLE | InstanceState.BUSY if instance.keeps and instance.attempt_id not in unfinished:
                return Keep(instance.id)
            case InstanceState.PENDING | InstanceState.PROVISIONING | InstanceState.IDLE | InstanceState.BUSY if (
                instance.attempt_id not in unfinished
            ):
                return Release(instance.id)
            case InstanceState.PENDING if not instance.rented:
                return Create(instance.id)
            case _:
                pass
    # A rented machine that ended before the job had it leaves the attempt to the next offer.
    served = {each.attempt_id for each in instances if not (each.rented and each.state is InstanceState.TERMINATED)}
    served |= {attempt.id for attempt in attempts if attempt.booked}
    for attempt in attempts:
        if attempt.id in unfinished and attempt.id not in served and desired is Desired.RUNNING:
            return Want(attempt.id)
    alive = any(instance.state is not InstanceState.TERMINATED and not instance.elsewhere for instance in instances)
    return Close() if run_ended and not unfinished and not alive else Wait()
