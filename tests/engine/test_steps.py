"""The step functions are pure: every combination of what is stored and what is seen is tried."""

from __future__ import annotations

import itertools

import pytest

from dstack_jupyter.engine.steps import attempt, fleet, run
from dstack_jupyter.machines.base import Ending
from dstack_jupyter.models.states import (
    ATTEMPT_END,
    RUN_END,
    AttemptState,
    Desired,
    InstanceState,
    Reason,
    RunState,
)

UNFINISHED = [state for state in AttemptState if state not in ATTEMPT_END]
SEEN = [
    attempt.Observation(instance=instance, started=started, ending=ending, lost=lost, refused=refused)
    for instance, started, ending, lost, refused in itertools.product(
        [None, *InstanceState],
        [False, True],
        [None, Ending(0), Ending(1), Ending(143, "stopped")],
        ["", "gone"],
        ["", "no"],
    )
    if (ending is None and not lost) or started
]


@pytest.mark.parametrize("state", sorted(ATTEMPT_END))
def test_nothing_is_ever_done_about_an_ended_attempt(state: AttemptState) -> None:
    """F51 dstack#3130."""
    for desired, seen in itertools.product(Desired, SEEN):
        assert attempt.next_step(state, desired, Desired.RUNNING, seen) == attempt.Wait()


def test_a_started_job_is_never_launched_again() -> None:
    for state, desired, seen in itertools.product(UNFINISHED, Desired, SEEN):
        step = attempt.next_step(state, desired, Desired.RUNNING, seen)
        if seen.started:
            assert not isinstance(step, attempt.Launch | attempt.Book)


def test_a_job_that_tells_how_it_ended_ends_the_attempt_whatever_was_stored() -> None:
    for state, desired, seen in itertools.product(UNFINISHED, Desired, SEEN):
        if seen.ending is not None:
            assert isinstance(attempt.next_step(state, desired, Desired.RUNNING, seen), attempt.End)


def test_r6_a_stop_wins_at_any_moment() -> None:
    for state, desired, seen in itertools.product(UNFINISHED, [Desired.STOPPED, Desired.ABORTED], SEEN):
        step = attempt.next_step(state, desired, Desired.RUNNING, seen)
        assert not isinstance(step, attempt.Launch | attempt.Book)
        if not seen.started:
            # The machine is told first where a launch may be under way; then, or else at once, it is the end.
            assert isinstance(step, attempt.End | attempt.AskToEnd)
            assert isinstance(attempt.next_step(state, desired, desired, seen), attempt.End)


def test_a_job_is_asked_to_stop_once_and_told_to_die_until_it_has() -> None:
    seen = attempt.Observation(instance=InstanceState.BUSY, started=True)

    def step(desired: Desired, asked: Desired) -> attempt.Step:
        return attempt.next_step(AttemptState.RUNNING, desired, asked, seen)

    assert step(Desired.STOPPED, Desired.RUNNING) == attempt.AskToEnd(abort=False)
    assert step(Desired.STOPPED, Desired.STOPPED) == attempt.Wait()
    assert step(Desired.ABORTED, Desired.STOPPED) == attempt.AskToEnd(abort=True)
    assert step(Desired.ABORTED, Desired.ABORTED) == attempt.AskToEnd(abort=True)


@pytest.mark.parametrize(
    ("ending", "state", "reason"),
    [
        (Ending(0), AttemptState.DONE, Reason.DONE_BY_RUNNER),
        (Ending(3), AttemptState.FAILED, Reason.EXITED_WITH_ERROR),
        (Ending(143, "max_duration"), AttemptState.TERMINATED, Reason.MAX_DURATION),
        (Ending(143, "stopped"), AttemptState.FAILED, Reason.EXECUTOR_ERROR),
        (Ending(0, "", 10, "cat: write error: No space left on device"), AttemptState.FAILED, Reason.EXECUTOR_ERROR),
        (Ending(0, "", 10, "cat: write error: File too large"), AttemptState.DONE, Reason.DONE_BY_RUNNER),
    ],
)
def test_how_a_job_ended_decides_the_verdict(ending: Ending, state: AttemptState, reason: Reason) -> None:
    seen = attempt.Observation(instance=InstanceState.BUSY, started=True, ending=ending)
    step = attempt.next_step(AttemptState.RUNNING, Desired.RUNNING, Desired.RUNNING, seen)
    assert isinstance(step, attempt.End)
    assert (step.state, step.reason, step.exit_code) == (state, reason, ending.exit_code)


def test_exit_127_says_that_a_command_was_not_found() -> None:
    seen = attempt.Observation(instance=InstanceState.BUSY, started=True, ending=Ending(127))
    step = attempt.next_step(AttemptState.RUNNING, Desired.RUNNING, Desired.RUNNING, seen)
    assert isinstance(step, attempt.End)
    assert "not found" in step.message


def test_a_run_ends_only_when_all_its_jobs_have() -> None:
    for states in itertools.product(AttemptState, repeat=3):
        jobs = [run.JobNow(state, Reason.TERMINATED_BY_USER) for state in states]
        for desired in Desired:
            found = run.derive(jobs, desired).state
            assert (found in RUN_END) == all(state in ATTEMPT_END for state in states)
            if found is RunState.DONE:
                assert set(states) == {AttemptState.DONE}


def test_a_run_that_is_to_end_shows_it_until_it_has() -> None:
    assert run.derive([run.JobNow(AttemptState.RUNNING)], Desired.STOPPED).state is RunState.TERMINATING


def fleet_step(attempt_state: AttemptState, *instances: InstanceState, desired: Desired = Desired.RUNNING) -> fleet.Step:
    return fleet.next_step(
        [fleet.AttemptNow("a", attempt_state)],
        [fleet.InstanceNow(f"i{number}", state, "a") for number, state in enumerate(instances)],
        desired,
    )


def test_the_life_of_a_fleet_of_one_run() -> None:
    assert fleet_step(AttemptState.SUBMITTED) == fleet.Want("a")
    assert fleet_step(AttemptState.SUBMITTED, InstanceState.PENDING) == fleet.Create("i0")
    assert fleet_step(AttemptState.SUBMITTED, InstanceState.IDLE) == fleet.Wait()
    assert fleet_step(AttemptState.RUNNING, InstanceState.BUSY) == fleet.Wait()
    assert fleet_step(AttemptState.DONE, InstanceState.BUSY) == fleet.Release("i0")
    assert fleet_step(AttemptState.DONE, InstanceState.TERMINATING) == fleet.Terminate("i0")
    assert fleet_step(AttemptState.DONE, InstanceState.TERMINATED) == fleet.Close()


def test_r3_a_fleet_is_never_closed_while_one_of_its_instances_is_not_gone() -> None:
    for attempt_state, state, desired in itertools.product(AttemptState, InstanceState, Desired):
        if state is not InstanceState.TERMINATED:
            assert fleet_step(attempt_state, state, desired=desired) != fleet.Close()


def test_nothing_is_created_for_who_is_to_stop() -> None:
    for state in AttemptState:
        for desired in (Desired.STOPPED, Desired.ABORTED):
            assert not isinstance(fleet_step(state, desired=desired), fleet.Want)


def test_an_attempt_gets_one_instance_only() -> None:
    for state, instance in itertools.product(AttemptState, InstanceState):
        assert not isinstance(fleet_step(state, instance), fleet.Want)
