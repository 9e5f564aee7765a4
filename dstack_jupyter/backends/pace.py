"""How often an account may be called: by its vendor's published limits, and by the vendor's own 'too many requests'.

Other processes that use the same key are not counted: only the vendor's 'too many requests' keeps us and them apart.
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
"""The share of a limit that patient calls leave to urgent ones: looks, and deletes, which end costs."""


@dataclass(slots=True)
class _Window:
    """One limit: never more than ``calls`` in any ``seconds``. The vendor may count a call at any moment between our request and
    its answer, so a call counts from its beginning until a window after its end."""

    calls: int
    seconds: float
    under_way: int = 0
    ended: deque[float] = field(default_factory=deque)
    promised: deque[float] = field(default_factory=deque)
    """The times at which refused callers were told to come back."""

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
        # The n-th caller who waits gets the n-th place that becomes free. Calls under way end now at the earliest.
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

        ``patient``: the call can wait. Each refused patient caller is told another moment, so that they do not come back at once.
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
        """Let nobody call for so many seconds, because the vendor said that it was too much."""
        with self._lock:
            self._paused_until = max(self._paused_until, self._clock() + seconds)


_paces: dict[str, Pace] = {}
_making = threading.Lock()


def pace_of(account: str, name: str, limits: Sequence[tuple[int, float]]) -> Pace:
    """The one pace of an account, whichever projects use it."""
    with _making:
        return _paces.setdefault(account, Pace(name, limits))
