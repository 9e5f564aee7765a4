"""How often an account may be called: its vendor's published limits, and what it says itself when it had enough.

The vendor counts a call when it arrives, at a moment that we do not know: it counts here from before it is sent until one window
after its end. So no window of the vendor's clock has more calls than are allowed, whatever the latencies; what that costs is the
share latency / window. Other processes that call the same account count for themselves: that they exceed the limit together
is not prevented, the vendor's own refusal slows each of them down.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from ..models.errors import RateLimited

RESERVE = 0.08
"""Share of each window that patient callers leave to the others, whose calls end what costs."""
GRACE = 2.0
"""Seconds for which a place is kept for one who was told to come then, and does not."""
LATE = 0.03
"""Share of the shortest window that ``GRACE`` is at most."""
SMOOTH = 0.1
"""Weight of the last call in what a call is expected to take."""


class _Window:
    """Never more than ``calls`` in ``seconds``. Times are the pace's."""

    def __init__(self, calls: int, seconds: float) -> None:
        self.calls = calls
        self.seconds = seconds
        self.patient = max(1, calls - round(calls * RESERVE))
        self.ended: deque[float] = deque()
        """When the calls ended that still count, the first to be forgotten first."""

    def forget(self, now: float) -> None:
        while self.ended and self.ended[0] <= now - self.seconds:
            self.ended.popleft()

    def free_at(self, now: float, place: int, flying: int, length: float, *, patient: bool) -> float:
        """When there is room for who has so many before it in the queue, as far as is known; ``now`` where there is.

        ``flying``: calls that have not ended; ``length``: seconds that one takes. Who is let in holds its room for a window, so
        beyond the calls of today the moments repeat: the k-th is one window after the (k - allowed)-th.
        """
        allowed = self.patient if patient else self.calls
        counted = len(self.ended)
        k = counted - allowed + place
        rounds = max(0, (k - counted) // allowed + 1)
        k -= rounds * allowed
        if k < 0:
            first = now
        elif k < len(self.ended):
            first = self.ended[k] + self.seconds
        else:
            first = now + length + self.seconds
        return first + rounds * (self.seconds + length)


class Pace:
    """Limits of one account, shared by all its users in this process. Safe on any thread; never sleeps.

    ``limits`` are (calls, seconds): never more calls than that in any window of so many seconds.
    """

    def __init__(self, name: str, limits: Sequence[tuple[int, float]] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._windows = [_Window(calls, seconds) for calls, seconds in limits]
        self._grace = min([GRACE, *(LATE * seconds for _, seconds in limits)])
        self._waiting: dict[bool, dict[str, float]] = {False: {}, True: {}}
        """Who was told to come later, and when: the impatient and the patient, in the order in which they asked first."""
        self._flying = 0
        self._length = 0.0
        self._paused_until = float("-inf")
        self._lock = threading.Lock()

    def take(self, ticket: str = "", *, patient: bool = False) -> float:
        """Count a call that begins now; ``done`` is due when it has ended, however it ended. Returns what ``done`` is given.

        Raises RateLimited where there is no room for it. Its delay says when there will be for this caller, known again by its
        ``ticket``: others are told other times. Who comes then finds its room still free.
        """
        with self._lock:
            now = self._clock()
            self._tidy(now)
            waiting = self._waiting[patient]
            before = [*(self._waiting[False].values() if patient else ()), *self._before(waiting, ticket)]
            # Room that is free now is kept for those who are due; who was told a later time has other room.
            if self._free(now, sum(when <= now for when in before), patient=patient) > now:
                free = self._free(now, len(before), patient=patient)
                if ticket:
                    waiting[ticket] = free
                raise RateLimited(f"{self._name}: no call for {free - now:.0f} s: its limit is reached", delay=free - now)
            waiting.pop(ticket, None)
            self._flying += 1
            return now

    @staticmethod
    def _before(waiting: dict[str, float], ticket: str) -> Iterator[float]:
        return itertools.islice(waiting.values(), list(waiting).index(ticket)) if ticket in waiting else iter(waiting.values())

    def _free(self, now: float, place: int, *, patient: bool) -> float:
        """When there is room for who has so many before it; ``now`` where there is."""
        times = [each.free_at(now, place, self._flying, self._length, patient=patient) for each in self._windows]
        return max([now, self._paused_until, *times])

    def done(self, began: float) -> None:
        """A call that began then has ended."""
        with self._lock:
            now = self._clock()
            self._flying -= 1
            self._length += SMOOTH * (now - began - self._length)
            for window in self._windows:
                window.ended.append(now)

    def pause(self, seconds: float) -> None:
        """The vendor said that it is too much: nobody calls for so long."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)

    def _tidy(self, now: float) -> None:
        for window in self._windows:
            window.forget(now)
        for waiting in self._waiting.values():
            for ticket, when in list(waiting.items()):
                if max(when, self._paused_until) + self._grace < now:
                    del waiting[ticket]


_paces: dict[str, Pace] = {}
_making = threading.Lock()


def pace_of(account: str, name: str, limits: Sequence[tuple[int, float]]) -> Pace:
    """The one pace of an account, whichever projects use it."""
    with _making:
        return _paces.setdefault(account, Pace(name, limits))
