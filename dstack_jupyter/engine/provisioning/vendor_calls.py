"""The calls to vendors, for the engine's loop: a bounded pool for each account, and one list for all who look there.

Vendor code blocks (D5). A call that does not come back keeps one thread of its account and no slot of the work queue: a
silent vendor holds up nothing but itself.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from ...backends import registry
from ...backends.base import Cloud, Clouds, Instance
from ...models.errors import BackendNotAvailable
from ..runtime.queue import release_slot

Result = TypeVar("Result")


class Call(Protocol):
    """One call after the other, in a thread of its own."""

    async def __call__(self, function: Callable[..., Result], *args: object) -> Result: ...


THREADS = 32
"""Concurrent calls of one account."""
MANY = 4
"""From this many looks at one account's machines within ``AGE`` on, one list serves all of them."""
AGE = 2.0
"""Seconds for which a list serves, and one more for each ``PAGE`` of its machines: a long list takes many calls."""
PAGE = 200


@dataclass(slots=True)
class _Watched:
    """An account that is looked at. Times are the loop's."""

    asked: deque[float] = field(default_factory=deque)
    listing: asyncio.Task[None] | None = None
    began: float = -1e9
    """When the last complete list was begun: machines made later may be missing."""
    listed: dict[str, list[Instance]] = field(default_factory=dict)
    callbacks: dict[str, Callable[[], None]] = field(default_factory=dict)
    """The callbacks of looks, by identity: called when another look's list shows the machine changed."""


class _Line:
    """The threads of an account, and the calls that wait for one. Deletes go first: a machine costs until its end."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="dj-vendor")
        self._free = THREADS
        self._waiting: list[tuple[bool, int, asyncio.Future[None]]] = []
        self._count = 0

    @asynccontextmanager
    async def thread_slot(self, ends: bool) -> AsyncIterator[Call]:
        await self._turn(ends)
        try:
            yield self._call
        finally:
            self._next()

    async def _call(self, function: Callable[..., Result], *args: object) -> Result:
        with release_slot():
            return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def _turn(self, ends: bool) -> None:
        if self._free > 0:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._waiting, (not ends, self._count, turn))
        try:
            with release_slot():
                await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._next()  # the thread came free just as the waiting call was cancelled
            raise

    def _next(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class Vendors:
    """The vendors, on the engine's loop. Errors are ``models.errors``."""

    def __init__(self, installation: str) -> None:
        self._installation = installation
        self._lines: dict[str, _Line] = {}
        self._accounts: dict[str, _Watched] = {}

    def cloud(self, backend: str, project: str) -> Cloud:
        """The account of a project. Calls nobody. Raises BackendNotAvailable where there is no entry."""
        loaded = registry.load(backend)
        if not isinstance(loaded, Clouds):
            raise BackendNotAvailable(f"{backend} rents no machines")
        return loaded.cloud(project)

    async def call(self, account: str, function: Callable[..., Result], *args: object, ends: bool = False) -> Result:
        """A vendor's call in the pool of its account (``Cloud.account_id``). ``ends``: a delete, which goes first."""
        async with self.thread_slot(account, ends=ends) as call:
            return await call(function, *args)

    def thread_slot(self, account: str, *, ends: bool = False) -> AbstractAsyncContextManager[Call]:
        """A thread for a call that must be stored first: once inside, the thread is free, so the row is soon true.

        A caller that still waits in line must not store that the call was made. An engine killed there leaves it unknown for a
        long time that nothing was sent.
        """
        line = self._lines.get(account)
        if line is None:
            line = self._lines[account] = _Line()
        return line.thread_slot(ends)

    async def look(self, cloud: Cloud, identity: str, data: Mapping[str, Any], changed: Callable[[], None]) -> Instance | None:
        """One machine, as the vendor reports it now or did within ``AGE``; None if the vendor reports none.

        Until the machine is gone, ``changed`` is called when another look's list shows the machine other than the list before:
        the next look may be the better part of a minute away.
        """
        now = asyncio.get_running_loop().time()
        account = self._accounts.setdefault(cloud.account_id, _Watched())
        account.asked.append(now)
        account.callbacks[identity] = changed
        while account.asked[0] <= now - AGE:
            account.asked.popleft()
        seen = await self._seen(cloud, account, identity, data, now)
        if seen is None:
            account.callbacks.pop(identity, None)
        return seen

    async def _seen(self, cloud: Cloud, account: _Watched, identity: str, data: Mapping[str, Any], now: float) -> Instance | None:
        if len(account.asked) < MANY:
            return await self.call(cloud.account_id, cloud.get, data)
        if account.began < now - AGE - len(account.listed) // PAGE or account.listing is not None:
            if account.listing is None:
                account.listing = asyncio.get_running_loop().create_task(self._list(cloud, account, now))
            with release_slot():
                await asyncio.shield(account.listing)
        same = [each for each in account.listed.get(identity, []) if each.data == data]
        # A machine missing from the list may be younger, or have other data: ask for it alone.
        return same[0] if same else await self.call(cloud.account_id, cloud.get, data)

    async def _list(self, cloud: Cloud, account: _Watched, began: float) -> None:
        try:
            listed: dict[str, list[Instance]] = {}
            for each in await self.call(cloud.account_id, cloud.list_all, self._installation):
                listed.setdefault(each.identity, []).append(each)
            known, account.listed, account.began = account.listed, listed, began
            for identity in known.keys() & account.callbacks.keys():
                if listed.get(identity) != known[identity]:
                    account.callbacks[identity]()
        finally:
            account.listing = None

    def close(self) -> None:
        for line in self._lines.values():
            line.close()
