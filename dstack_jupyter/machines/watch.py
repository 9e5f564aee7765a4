"""Wakes a callback when a folder of this machine changes or a process ends: the kernel tells, nobody polls.

Linux: inotify for the folder, a pidfd for the process. Elsewhere a look every 50 ms stands in (best effort).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL = 0.05
TELLING = frozenset({"log", "pid", "exit"})
"""The files of a job folder whose change is worth a look."""
STARTED = "started"
"""Its removal is, too: somebody removes the folder."""


@dataclass(slots=True)
class _Watched:
    changed: Callable[[], None]
    inotify: Any = None
    pidfd: int = -1
    timer: asyncio.TimerHandle | None = None


class FolderWatch:
    """All watches of one loop, over one inotify descriptor. Use it from that loop only."""

    def __init__(self) -> None:
        self._watched: dict[Path, _Watched] = {}
        self._by_watch: dict[Any, _Watched] = {}
        self._inotify: Any = None
        self._task: asyncio.Task[None] | None = None

    def add(self, folder: Path, pid: int | None, changed: Callable[[], None]) -> None:
        """Call ``changed`` when a job folder tells something or process ``pid`` ends; once now, for what was missed."""
        self.remove(folder)
        watched = _Watched(changed)
        self._watched[folder] = watched
        if sys.platform == "linux":
            self._add_inotify(folder, watched)
            self._add_process(pid, watched)
        else:
            self._poll(watched)
        changed()

    def _add_inotify(self, folder: Path, watched: _Watched) -> None:
        from asyncinotify import Inotify, Mask

        if self._inotify is None:
            self._inotify = Inotify()
            self._task = asyncio.get_running_loop().create_task(self._read())
        told = Mask.MODIFY | Mask.CREATE | Mask.MOVED_TO | Mask.DELETE
        watched.inotify = self._inotify.add_watch(folder, told | Mask.ONLYDIR)
        self._by_watch[watched.inotify] = watched

    def _add_process(self, pid: int | None, watched: _Watched) -> None:
        if pid is None:
            return
        try:
            watched.pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return

        def ended() -> None:
            # A pidfd stays readable once its process has ended: one call is all there is to tell.
            self._close_process(watched)
            watched.changed()

        asyncio.get_running_loop().add_reader(watched.pidfd, ended)

    def _close_process(self, watched: _Watched) -> None:
        if watched.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(watched.pidfd)
            os.close(watched.pidfd)
            watched.pidfd = -1

    def _poll(self, watched: _Watched) -> None:
        watched.timer = asyncio.get_running_loop().call_later(POLL, self._poll, watched)
        watched.changed()

    async def _read(self) -> None:
        from asyncinotify import Mask

        async for event in self._inotify:
            if event.watch is None:  # the kernel's queue ran over: anything may have changed
                for watched in list(self._by_watch.values()):
                    watched.changed()
            # That files go is told, not that the folder does: a process that works in it keeps it.
            elif event.watch in self._by_watch and str(event.name) in ((STARTED,) if event.mask & Mask.DELETE else TELLING):
                self._by_watch[event.watch].changed()

    def remove(self, folder: Path) -> None:
        watched = self._watched.pop(folder, None)
        if watched is None:
            return
        if watched.timer is not None:
            watched.timer.cancel()
        self._close_process(watched)
        if watched.inotify is not None:
            self._by_watch.pop(watched.inotify, None)
            self._inotify.rm_watch(watched.inotify)

    def close(self) -> None:
        for folder in list(self._watched):
            self.remove(folder)
        if self._task is not None:
            self._task.cancel()
        if self._inotify is not None:
            self._inotify.close()
            self._inotify = None
