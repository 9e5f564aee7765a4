"""Wakes whoever follows a run, or everything. It carries no data: a woken follower reads the store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

EVERYTHING = ""


class Bus:
    """Use it from the engine's loop only."""

    def __init__(self) -> None:
        self._followers: dict[str, set[asyncio.Event]] = {}

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
        self._wake(run_id)
        self._wake(EVERYTHING)

    def publish_events(self) -> None:
        """Wake those who follow everything: for what changes no run's view."""
        self._wake(EVERYTHING)

    def publish_all(self) -> None:
        """Wake everybody: for what is rare and not of one run."""
        for key in self._followers:
            self._wake(key)

    def _wake(self, key: str) -> None:
        for signal in self._followers.get(key, ()):
            signal.set()
