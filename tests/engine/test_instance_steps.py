"""The pure steps of a rented machine: what the engine concludes from what it knows, and what it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dstack_jupyter.backends.base import Traits
from dstack_jupyter.engine.steps.instance import (
    GONE,
    Create,
    Delete,
    Detach,
    Find,
    Gone,
    Heartbeat,
    LetGo,
    Look,
    Meet,
    Observation,
    Start,
    Step,
    Wait,
    next_step,
)
from dstack_jupyter.models.states import InstanceState

LOOK = Traits(resend="look", settles=120, absent_after=600, ready_within=600)
TOKEN = Traits(resend="token", settles=120, absent_after=600, ready_within=600)

INTENT = Observation(InstanceState.PENDING)
ASKED = Observation(InstanceState.PENDING, since_create_sent=1, looked=True, absent_for=0)
MADE = Observation(InstanceState.PROVISIONING, known=True, since_create_sent=5, since_rented=5)
RUNNING = replace(MADE, status="running", address=True, looked=True, ever_seen=True)
BUSY = Observation(InstanceState.BUSY, known=True, since_rented=100, status="running", looked=True, ever_seen=True, address=True)
ENDING = Observation(InstanceState.TERMINATING, known=True, since_rented=100, status="running", ever_seen=True, due=True)
TOLD = replace(ENDING, due=False, since_delete_accepted=1, looked=True)


def step(now: Observation, traits: Traits = LOOK) -> Step:
    return next_step(now, traits)


class TestIntent:
    def test_one_that_was_never_asked_for_is_made(self) -> None:
        assert step(INTENT) == Create(first=True)

    def test_after_a_create_of_unknown_outcome_it_is_looked_for_first(self) -> None:
        assert step(replace(ASKED, looked=False)) == Find()

    def test_a_vendor_without_tokens_gets_no_second_create_before_the_first_has_settled(self) -> None:
        """F05 cluster-api-provider-aws#1769."""
        assert step(ASKED) == Wait()
        assert step(replace(ASKED, since_create_sent=119)) == Wait()
        assert step(replace(ASKED, since_create_sent=120)) == Create(first=False)

    def test_a_vendor_that_honours_a_token_gets_it_again_at_once(self) -> None:
        assert step(ASKED, TOKEN) == Create(first=False)


class TestMaking:
    def test_it_is_met_where_it_runs_and_has_an_address(self) -> None:
        assert step(MADE) == Look()
        assert step(RUNNING) == Meet()
        assert step(replace(RUNNING, address=False)) == Wait()
        assert step(replace(RUNNING, status="starting")) == Wait()
        assert step(replace(RUNNING, status="a word that nobody knows")) == Wait()

    def test_one_that_cannot_be_used_in_time_is_ended(self) -> None:
        assert step(replace(RUNNING, since_rented=600)) == Meet()
        assert isinstance(step(replace(RUNNING, since_rented=601)), LetGo)

    def test_off_at_first_means_nothing(self) -> None:
        assert step(replace(RUNNING, status="stopped", since_rented=59)) == Wait()
        assert isinstance(step(replace(RUNNING, status="stopped", raw_status="off", since_rented=61)), LetGo)


class TestInUse:
    def test_it_gets_a_word_now_and_then(self) -> None:
        assert step(BUSY) == Wait()
        assert step(replace(BUSY, due=True)) == Heartbeat()

    @pytest.mark.parametrize("status", ["stopped", "ending"])
    def test_what_the_vendor_stopped_is_lost(self, status: str) -> None:
        assert isinstance(step(replace(BUSY, status=status)), LetGo)

    def test_what_is_off_with_a_log_that_nobody_read_is_started_again(self) -> None:
        off = replace(BUSY, status="stopped", restarts=True, unread=True, due=True)
        assert step(off) == Start()
        assert step(replace(off, due=False)) == Wait()
        assert step(replace(off, since_started=299)) == Start()
        assert step(replace(off, looked=False)) == Look()
        for left in ({"restarts": False}, {"unread": False}, {"since_started": 300}, {"status": "ending"}, {"status": ""}):
            assert not isinstance(step(replace(off, **left)), Start)
        for given_up in ({"restarts": False}, {"unread": False}, {"since_started": 300}):
            assert isinstance(step(replace(off, **given_up)), LetGo)

    @pytest.mark.parametrize(
        ("age", "absent", "lost"), [(100, 0, False), (100, 119, False), (100, 120, True), (700, 59, False), (700, 60, True)]
    )
    def test_not_found_is_no_word_before_it_is_more_than_a_flicker(self, age: float, absent: float, lost: bool) -> None:
        found = step(replace(BUSY, since_rented=age, absent_for=absent))
        assert isinstance(found, LetGo) is lost

    def test_one_that_was_never_seen_is_not_lost_while_it_is_young(self) -> None:
        """F08 skypilot#4431."""
        assert step(replace(BUSY, ever_seen=False, absent_for=599, since_rented=599)) == Wait()


class TestEnding:
    def test_nothing_was_ever_asked_for(self) -> None:
        assert step(Observation(InstanceState.TERMINATING)) == Gone()

    def test_a_create_of_unknown_outcome_is_looked_for_until_it_has_settled(self) -> None:
        unknown = Observation(InstanceState.TERMINATING, since_create_sent=1)
        assert step(unknown) == Find()
        assert step(replace(unknown, looked=True, absent_for=0)) == Wait()
        assert step(replace(unknown, looked=True, absent_for=0, since_create_sent=120)) == Gone()
        assert step(replace(unknown, looked=True, absent_for=0), TOKEN) == Wait()

    def test_the_delete_comes_first_then_the_look(self) -> None:
        assert step(ENDING) == Delete()
        assert step(replace(ENDING, due=False)) == Look()

    def test_it_is_gone_when_the_vendor_that_accepted_its_end_has_it_no_more(self) -> None:
        assert step(TOLD) == Wait()
        assert step(replace(TOLD, absent_for=GONE)) == Gone()
        assert step(replace(TOLD, absent_for=0)) == Wait(), "one that lingers may be missing from one answer"

    def test_it_is_told_again_for_ever(self) -> None:
        """F33 scrapoxy#32."""
        assert step(replace(TOLD, due=True, since_delete_accepted=1e7)) == Delete()
        assert step(replace(TOLD, since_delete_accepted=1e7)) == Wait()

    def test_a_not_found_without_an_accepted_end_needs_its_age_and_its_time(self) -> None:
        absent = replace(TOLD, since_delete_accepted=None, absent_for=60)
        assert step(absent) == Wait()
        assert step(replace(absent, since_rented=600)) == Gone()
        assert step(replace(absent, since_rented=600, absent_for=59)) == Wait()

    def test_what_was_attached_for_it_alone_goes_last(self) -> None:
        assert step(Observation(InstanceState.TERMINATED, resources=True)) == Detach()
        assert step(Observation(InstanceState.TERMINATED)) == Wait()
