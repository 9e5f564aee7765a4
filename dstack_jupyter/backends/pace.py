"""How often an account may be called: its vendor's published limits, and what it says itself when it had enough."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from ..models.errors import RateLimited


class Pace:
    """Limits of one account, shared by all its users in this process. Safe on any thread.

    ``limits`` are (calls, seconds): never more calls than that in any window of so many seconds.
    """

    def __init__(self, name: str, limits: Sequence[tuple[int, float]] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._windows = [(calls, seconds, deque[float]()) for calls, seconds in limits]
        self._paused_until = 0.0
        self._lock = threading.Lock()

    def take(self) -> None:
        """Count a call that is made now. Raises RateLimited with the seconds to wait where there is no room for it."""
        with self._lock:
            now = self._clock()
            wait = self._paused_until - now
            for calls, seconds, times in self._windows:
                while times and times[0] <= now - seconds:
                    times.popleft()
                if len(times) >= calls:
                    wait = max(wait, times[0] + seconds - now)
            if wait > 0:
                raise RateLimited(f"{self._name}: no call for {wait:.0f} s: its limit is reached", delay=wait)
            for _, _, times in self._windows:
                times.append(now)

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
