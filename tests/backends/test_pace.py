"""An account's pace: the vendor's limit is never exceeded by the vendor's own count, and nearly all of it is used."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_jupyter.backends.pace import Pace
from dstack_jupyter.models.errors import RateLimited

MINUTE = (250, 60.0)


@dataclass
class Vendor:
    """Callers of one account over virtual time. ``latency`` gives the seconds of a call; it arrives somewhere within them."""

    limits: Sequence[tuple[int, float]]
    latency: Callable[[], float]
    seed: int = 0
    now: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    served: dict[str, list[float]] = field(default_factory=dict)
    refused: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pace = Pace("fake", self.limits, lambda: self.now)
        self._random = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, function: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), function))

    def ask(self, ticket: str, *, patient: bool, again: bool = False) -> None:
        """Call, or come back when told to; ``again``: and then once more, for ever."""
        try:
            began = self.pace.take(ticket, patient=patient)
        except RateLimited as error:
            self.refused.setdefault(ticket, []).append(error.delay)
            self.at(self.now + error.delay + 1e-6, lambda: self.ask(ticket, patient=patient, again=again))
            return
        self.served.setdefault(ticket, []).append(began)
        taken = self.latency()
        self.at(began + taken * self._random.random(), lambda: self.arrivals.append(self.now))

        def end() -> None:
            self.pace.done(began)
            if again:
                self.ask(ticket, patient=patient, again=True)

        self.at(began + taken, end)

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, function = heapq.heappop(self._events)
            function()
        self.now = until

    def most(self, seconds: float) -> int:
        """The most calls that any window of the vendor's clock has seen."""
        first, most = 0, 0
        for last, when in enumerate(self.arrivals):
            while self.arrivals[first] <= when - seconds:
                first += 1
            most = max(most, last - first + 1)
        return most


limits = st.tuples(st.integers(1, 40), st.sampled_from([1.0, 60.0]))


@settings(max_examples=60, deadline=None)
@given(st.lists(limits, min_size=1, max_size=2), st.integers(0, 1 << 30), st.floats(0.0, 90.0), st.integers(1, 60))
def test_no_window_of_the_vendors_clock_sees_more_than_is_allowed(
    found: list[tuple[int, float]], seed: int, slowest: float, callers: int
) -> None:
    chance = random.Random(seed)
    vendor = Vendor(found, lambda: chance.choice((0.0, chance.random(), slowest * chance.random())), seed)
    for number in range(callers):
        patient = chance.random() < 0.5
        vendor.at(chance.random() * 200, lambda n=number, p=patient: vendor.ask(f"{n}", patient=p, again=True))  # type: ignore[misc]
    vendor.run(600.0)
    assert vendor.arrivals
    for calls, seconds in found:
        assert vendor.most(seconds) <= calls


@settings(max_examples=8, deadline=None)
@given(st.integers(25, 80), st.integers(0, 1 << 30), st.floats(0.05, 2.4), st.integers(5, 40))
def test_under_constant_demand_nine_tenths_of_a_limit_are_used(calls: int, seed: int, slowest: float, looks: int) -> None:
    chance = random.Random(seed)
    vendor = Vendor([(calls, 60.0)], lambda: slowest * chance.random(), seed)
    for number in range(2 * calls):
        vendor.ask(f"create {number}", patient=True, again=True)
    for number in range(looks):
        vendor.ask(f"look {number}", patient=False, again=True)
    vendor.run(16 * 60.0)
    assert len([when for when in vendor.arrivals if when >= 60.0]) >= 0.9 * calls * 15


def test_creates_alone_use_nine_tenths_of_a_limit() -> None:
    vendor = Vendor([MINUTE], lambda: 0.4)
    for number in range(1000):
        vendor.ask(f"create {number}", patient=True, again=True)
    vendor.run(11 * 60.0)
    assert len([when for when in vendor.arrivals if when >= 60.0]) >= 0.9 * 250 * 10


def test_a_delete_is_not_starved_by_creates() -> None:
    vendor = Vendor([MINUTE], lambda: 0.4)
    for number in range(1000):
        vendor.ask(f"create {number}", patient=True, again=True)
    for number in range(100):
        vendor.at(100.0 + 6 * number, lambda n=number: vendor.ask(f"delete {n}", patient=False))  # type: ignore[misc]
    vendor.run(13 * 60.0)
    waited = [vendor.served[f"delete {number}"][0] - (100.0 + 6 * number) for number in range(100)]
    assert max(waited) == 0.0


def test_a_thousand_that_wait_are_told_when_there_is_room_for_each() -> None:
    vendor = Vendor([MINUTE], lambda: 0.4)
    for number in range(1000):
        vendor.at(number * 0.01, lambda n=number: vendor.ask(f"create {n}", patient=True))  # type: ignore[misc]
    vendor.run(11.0)
    told = sorted(round(delays[0] + int(ticket.split()[1]) * 0.01, 1) for ticket, delays in vendor.refused.items())
    # Three more rounds of 230 each, over the ten seconds in which the first were let in, and the rest.
    assert [sum(low <= each < low + 60 for each in told) for low in (60, 120, 180, 240)] == [230, 230, 230, 80]
    vendor.run(300.0)
    assert len(vendor.arrivals) == 1000
    again = [len(delays) for delays in vendor.refused.values()]
    assert max(again) <= 4
    assert sum(again) <= 1.5 * 1000


def test_who_comes_when_told_finds_the_room_free_whoever_else_comes() -> None:
    vendor = Vendor([(10, 60.0)], lambda: 0.0)
    for number in range(11):
        vendor.ask(f"{number}", patient=False)
    vendor.run(59.0)
    vendor.at(60.0, lambda: vendor.ask("eager", patient=False))
    for number in range(9):
        vendor.at(60.0, lambda n=number: vendor.ask(f"later {n}", patient=False))  # type: ignore[misc]
    vendor.run(61.0)
    assert "10" in vendor.served
    assert len(vendor.arrivals) == 20
    assert vendor.refused["later 8"]


def test_a_place_that_nobody_comes_for_is_given_to_others() -> None:
    vendor = Vendor([(1, 60.0)], lambda: 0.0)
    vendor.ask("first", patient=False)
    with pytest.raises(RateLimited):
        vendor.pace.take("gone", patient=False)
    vendor.run(61.0)
    with pytest.raises(RateLimited):
        vendor.pace.take("next", patient=False)
    vendor.run(62.0)
    vendor.pace.take("another", patient=False)


def test_a_call_counts_until_a_window_after_its_end() -> None:
    now = 0.0
    pace = Pace("fake", [(1, 60.0)], lambda: now)
    began = pace.take()
    now = 70.0
    with pytest.raises(RateLimited):
        pace.take()  # it may not even have arrived
    now = 80.0
    pace.done(began)
    now = 139.0
    with pytest.raises(RateLimited) as caught:
        pace.take()
    assert caught.value.delay == 1.0
    now = 140.0
    pace.take()


def test_a_pause_is_for_everybody_and_ends() -> None:
    now = 0.0
    pace = Pace("fake", [MINUTE], lambda: now)
    pace.pause(17)
    pace.pause(3)  # never shorter than what was said before
    for patient in (True, False):
        with pytest.raises(RateLimited) as caught:
            pace.take("it", patient=patient)
        assert caught.value.delay == 17
    now = 17.0
    pace.take("it")


def test_after_a_pause_no_more_come_back_at_once_than_are_allowed() -> None:
    pace = Pace("fake", [MINUTE], lambda: 0.0)
    pace.pause(17)
    delays = []
    for number in range(600):
        with pytest.raises(RateLimited) as caught:
            pace.take(f"{number}")
        delays.append(caught.value.delay)
    assert delays.count(17) == 250
