"""The pace of an account: all of what the vendor allows, and never more, however it counts."""

from __future__ import annotations

import heapq
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_jupyter.backends.pace import Pace
from dstack_jupyter.models.errors import RateLimited


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def most_in_a_window(arrivals: list[float], seconds: float) -> int:
    arrivals = sorted(arrivals)
    first = most = 0
    for last, moment in enumerate(arrivals):
        while arrivals[first] <= moment - seconds:
            first += 1
        most = max(most, last - first + 1)
    return most


def live(callers: int, limit: tuple[int, float], seconds: float, latency: float, seed: int) -> tuple[list[float], int]:
    """So many callers that each want the next call as soon as they may. Returns (when each arrived at the vendor, refusals)."""
    clock, dice = Clock(), random.Random(seed)
    pace = Pace("vendor", [limit], clock)
    arrivals: list[float] = []
    refused = 0
    due = [(clock.now, number, None) for number in range(callers)]
    heapq.heapify(due)
    end = clock.now + seconds
    while due:
        clock.now, number, call = heapq.heappop(due)
        if clock.now > end:
            break
        if call is not None:
            call.__exit__(None, None, None)
            heapq.heappush(due, (clock.now, number, None))
            continue
        call = pace.call(patient=number % 5 != 0)
        try:
            call.__enter__()
        except RateLimited as error:
            refused += 1
            heapq.heappush(due, (clock.now + error.delay, number, None))
        else:
            took = dice.uniform(0.001, latency)
            arrivals.append(clock.now + dice.uniform(0, took))
            heapq.heappush(due, (clock.now + took, number, call))
    return arrivals, refused


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(2, 40), st.floats(0.01, 3.0), st.integers(0, 10_000))
def test_the_vendor_never_counts_more_than_it_allows(callers: int, calls: int, latency: float, seed: int) -> None:
    arrivals, _ = live(callers, (calls, 10.0), 60.0, latency, seed)
    assert most_in_a_window(arrivals, 10.0) <= calls


def test_nine_tenths_of_what_is_allowed_is_used() -> None:
    arrivals, _ = live(1000, (250, 60.0), 600.0, 0.3, 1)
    assert most_in_a_window(arrivals, 60.0) <= 250
    assert len(arrivals) / 600.0 >= 0.9 * 250 / 60.0


def test_a_thousand_who_wait_are_told_different_moments() -> None:
    clock = Clock()
    pace = Pace("vendor", [(250, 60.0)], clock)
    delays = []
    for _ in range(1000):
        clock.now += 0.001
        try:
            with pace.call(patient=True):
                pass
        except RateLimited as error:
            delays.append(clock.now + error.delay)
    assert len(delays) == 770
    assert len({round(moment, 6) for moment in delays}) == len(delays)
    assert max(delays) < 1000.0 + 5 * 60.0


def test_who_can_wait_leaves_room_for_who_should_not() -> None:
    pace = Pace("vendor", [(100, 60.0)], Clock())
    for _ in range(92):
        with pace.call(patient=True):
            pass
    with pytest.raises(RateLimited), pace.call(patient=True):
        pass
    for _ in range(8):
        with pace.call():
            pass
    with pytest.raises(RateLimited), pace.call():
        pass


def test_the_whole_limit_can_be_used_and_never_more_of_it() -> None:
    clock = Clock()
    pace = Pace("fake", ((10, 60.0), (25, 3600.0)), clock)
    times: list[float] = []
    for _ in range(7200):
        try:
            with pace.call():
                times.append(clock())
        except RateLimited as error:
            assert error.delay > 0
        clock.now += 1.0
    for calls, seconds in ((10, 60.0), (25, 3600.0)):
        assert all(later - earlier >= seconds for earlier, later in zip(times, times[calls:], strict=False))
    assert len(times) == 50  # all of two hours' worth


def test_a_pause_is_for_everybody_and_ends() -> None:
    clock = Clock()
    pace = Pace("fake", clock=clock)
    pace.pause(17)
    pace.pause(3)  # never shorter than what was said before
    with pytest.raises(RateLimited) as caught, pace.call():
        pass
    assert caught.value.delay == 17
    clock.now += 17
    with pace.call():
        pass
