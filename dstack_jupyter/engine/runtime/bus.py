"""Wakes whoever follows a run, or everything. It carries no data: a woken follower reads the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERYTHING, ALL = "", "*"


class Bus:
    """Use it from the engine's loop only. ``tell``, where engines share a store, says to the others what was published here."""

    def __init__(self) -> None:
        self._followers: dict[str, set[asyncio.Event]] = {}
        self.tell: Callable[[str], None] | None = None

    @contextmanager
    def subscribe(self, run_id: str = EVERYTHING) -> Iterator[asyncio.Event]:
        """An event that is set after each commit that touches the run (or any run); its holder clears it, then reads."""
        signal = asyncio.Event()
        self._followers.setdefault(run_id, set()).add(signal)
        try:
            yield signal
        finally:
            followers = self._followers[run_id]
            followers.discard(signal)
            if not followers:
                del self._followers[run_id]

    def publish(self, run_id: str) -> None:
        """Called after a commit, never before: who is woken must find what woke it."""
        self._say(run_id)

    def publish_events(self) -> None:
        """Wake those who follow everything: for what changes no run's view."""
        self._say(EVERYTHING)

    def publish_all(self) -> None:
        """Wake everybody: for what is rare and not of one run."""
        self._say(ALL)

    def _say(self, key: str) -> None:
        self.hear(key)
        if self.tell is not None:
            self.tell(key)

    def hear(self, key: str) -> None:
        """Wake those whom ``key`` concerns: what was published here or, when another engine says it, there."""
        for each in list(self._followers) if key == ALL else {key, EVERYTHING}:
            for signal in self._followers.get(each, ()):
                signal.set()
