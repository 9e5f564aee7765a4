"""How often an account may be called: its vendor's published limits, and what it says itself when it had enough.

Other processes that use the same key are not counted: the vendor's own 'too many requests' is what stands between us and them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..models.errors import RateLimited

LEFT_TO_OTHERS = 0.08
"""The share of a limit that calls which can wait leave to those that should not: looks, and deletes, which end money."""


@dataclass(slots=True)
class _Window:
    """One limit: never more than ``calls`` in any ``seconds``, whenever the vendor counts a call between our sending it and its
    answer. So a call counts from its beginning until a window after its end."""

    calls: int
    seconds: float
    under_way: int = 0
    ended: deque[float] = field(default_factory=deque)
    promised: deque[float] = field(default_factory=deque)
    """When those who were refused were told to come back."""

    def wait(self, now: float, patient: bool) -> float:
        """Seconds until there is room for one more; 0: now."""
        while self.ended and self.ended[0] <= now - self.seconds:
            self.ended.popleft()
        while self.promised and self.promised[0] <= now:
            self.promised.popleft()
        most = max(1, int(self.calls * (1 - LEFT_TO_OTHERS))) if patient else self.calls
        over = len(self.ended) + self.under_way - most
        if over < 0:
            return 0.0
        # The place of the n-th who waits is the n-th that becomes free. Those under way end now at the earliest.
        place = over + (len(self.promised) if patient else 0)
        rounds, place = divmod(place, len(self.ended) + self.under_way)
        free = self.ended[place] if place < len(self.ended) else now
        return max(free + self.seconds * (rounds + 1) - now, 0.001)


class Pace:
    """Limits of one account, shared by all its users in this process. Safe on any thread; nothing here sleeps.

    ``limits`` are (calls, seconds): never more calls than that in any window of so many seconds.
    """

    def __init__(self, name: str, limits: Sequence[tuple[int, float]] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._windows = [_Window(calls, seconds) for calls, seconds in limits]
        self._paused_until = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def call(self, *, patient: bool = False) -> Iterator[None]:
        """Around a call. Raises RateLimited, with the seconds to wait, where there is no room for it.

        ``patient``: it can wait; of all who are refused each is told another moment, so that they do not come back at once.
        """
        self._begin(patient)
        try:
            yield
        finally:
            self._end()

    def _begin(self, patient: bool) -> None:
        with self._lock:
            now = self._clock()
            wait = max([self._paused_until - now, *(window.wait(now, patient) for window in self._windows)])
            if wait > 0:
                if patient:
                    for window in self._windows:
                        window.promised.append(now + wait)
                raise RateLimited(f"{self._name}: no call for {wait:.0f} s: its limit is reached", delay=wait)
            for window in self._windows:
                window.under_way += 1

    def _end(self) -> None:
        with self._lock:
            now = self._clock()
            for window in self._windows:
                window.under_way -= 1
                window.ended.append(now)

    def pause(self, seconds: float) -> None:
        """The vendor said that it is too much: nobody calls for so long."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)


_paces: dict[str, Pace] = {}
_making = threading.Lock()


def pace_of(account: str, name: str, limits: Sequence[tuple[int, float]]) -> Pace:
    """The one pace of an account, whichever projects use it."""
    with _making:
        return _paces.setdefault(account, Pace(name, limits))
