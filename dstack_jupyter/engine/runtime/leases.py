"""For which resources this engine acts: all of a SQLite store, or the fleets of a shared one that it holds leases of.

Both know one thing for the engine: the fence under which a key is handled, or that it is another engine's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from ...models.errors import DstackJupyterError
from ..store import leases, work
from ..store.database import Database
from ..store.fence import Fence
from .queue import Key

log = logging.getLogger(__name__)

BEAT = 5.0
"""Seconds between two renewals: a third of what a lease holds, so that one lost beat is no lost lease."""

REMEMBERED = 256
"""Ended fleets whose keys are known without asking the store."""


class Leases(Protocol):
    """Used by the engine on its loop."""

    @property
    def owner(self) -> str:
        """Who leases a new fleet from its first moment; '' where fleets have no leases."""
        ...

    async def start(self) -> None:
        """Take what is to be had, and go on doing so. Raises StoreUnavailable, StorageFull."""
        ...

    async def of(self, key: Key) -> Fence | None:
        """The fence under which ``key`` is handled here; None if another engine acts for it, or nobody yet."""
        ...

    def born(self, fleet_id: str, keys: Sequence[Key]) -> None:
        """A fleet was stored with ``owner`` as its first holder; ``keys`` belong to it."""
        ...

    def acts_for(self, key: Key) -> bool:
        """Whether ``key`` is known to be handled here."""
        ...

    def lose(self, fence: Fence) -> None:
        """A write was refused: another engine acts there now."""
        ...

    def closed(self, fleet_id: str) -> None:
        """A fleet has ended."""
        ...

    def look(self) -> None:
        """Leases became free somewhere: do not wait for the next beat."""
        ...

    async def stop(self) -> None:
        """Give everything back."""
        ...


class StoreLease:
    """SQLite: whoever holds the home's lock takes the whole store; who had it before can write no more.

    ``taken`` hears of all unfinished work, once; ``lost`` hears when another engine has the store.
    """

    owner = ""

    def __init__(self, database: Database, life: str, taken: Callable[[list[work.Work]], None], lost: Callable[[], None]) -> None:
        self._database = database
        self._life = life
        self._taken = taken
        self._lost = lost
        self._fence: Fence | None = None

    async def start(self) -> None:
        self._fence = self._database.fence = await self._database.write(leases.take_store, self._life)
        self._taken(await self._database.read(work.unfinished))

    async def of(self, key: Key) -> Fence | None:
        return self._fence

    def born(self, fleet_id: str, keys: Sequence[Key]) -> None:
        pass

    def acts_for(self, key: Key) -> bool:
        return True

    def lose(self, fence: Fence) -> None:
        self._lost()

    def closed(self, fleet_id: str) -> None:
        pass

    def look(self) -> None:
        pass

    async def stop(self) -> None:
        """Nothing is given back: the next token is what ends this one."""


class FleetLeases:
    """PostgreSQL: one lease a fleet, shared out among the engines.

    ``taken`` hears of the work of each fleet that was won, ``lost`` of the keys of each that went to another engine.
    """

    def __init__(
        self,
        database: Database,
        life: str,
        place: str,
        taken: Callable[[list[work.Work]], None],
        lost: Callable[[str, list[Key]], None],
        freed: Callable[[], None],
    ) -> None:
        self.owner = life
        self._database = database
        self._place = place
        self._taken = taken
        self._lost = lost
        self._freed = freed
        self._held: dict[str, Fence] = {}
        self._ended: dict[str, None] = {}
        self._fleet_of: dict[Key, str] = {}
        self._keys: dict[str, set[Key]] = {}
        self._beat: asyncio.Task[None] | None = None
        self._early = asyncio.Event()

    async def start(self) -> None:
        await self._database.write(leases.begin, self.owner, self._place)
        await self._take(earlier=True)
        self._beat = asyncio.get_running_loop().create_task(self._beats(), name="leases")

    async def _beats(self) -> None:
        while True:
            try:
                async with asyncio.timeout(BEAT):
                    await self._early.wait()
            except TimeoutError:
                pass
            self._early.clear()
            try:
                await self._renew()
                await self._take()
            except DstackJupyterError as error:
                # Away: then nobody else can take them either, or the database says at the next beat who did.
                log.warning("leases: %s", error.message)

    async def _renew(self) -> None:
        before = dict(self._held)
        still = {fence.resource: fence for fence in await self._database.write(leases.renew, self.owner)}
        for fleet_id, fence in before.items():
            if still.get(fleet_id) != fence and self._held.get(fleet_id) == fence:
                self.lose(fence)
        # Won by a transaction whose answer was lost on the way.
        await self._won([fence for fence in still.values() if fence.resource not in self._held])

    async def _take(self, *, earlier: bool = False) -> None:
        take = partial(leases.take, earlier=earlier)
        while won := await self._database.write(take, self.owner, self._place):
            await self._won(won)
            if len(won) < leases.MOST:
                return

    async def _won(self, won: Sequence[Fence]) -> None:
        if not won:
            return
        unfinished = await self._database.read(work.unfinished, [fence.resource for fence in won])
        for fence in won:
            self._held[fence.resource] = fence
        for each in unfinished:
            self._remember(Key(each.kind, each.id), each.fleet_id)
        self._taken(unfinished)

    def _remember(self, key: Key, fleet_id: str) -> None:
        self._fleet_of[key] = fleet_id
        self._keys.setdefault(fleet_id, set()).add(key)

    async def of(self, key: Key) -> Fence | None:
        fleet_id = key.id if key.kind == "fleet" else self._fleet_of.get(key, "")
        if fleet_id in self._ended:
            return self._nobody_s(fleet_id)
        if fleet_id not in self._held:
            fleet = await self._database.read(work.fleet_of, key.kind, key.id)
            if fleet is None:
                return None
            fleet_id, ended = fleet
            if ended:
                return self._nobody_s(fleet_id)
            if fleet_id in self._held:
                self._remember(key, fleet_id)
        return self._held.get(fleet_id)

    def _nobody_s(self, fleet_id: str) -> Fence:
        """What is left to do for a fleet that has ended is to let go, which stores nothing."""
        return Fence(fleet_id, self.owner, 0)

    def born(self, fleet_id: str, keys: Sequence[Key]) -> None:
        self._held[fleet_id] = Fence(fleet_id, self.owner, 1)
        for key in keys:
            self._remember(key, fleet_id)

    def acts_for(self, key: Key) -> bool:
        return self._fleet_of.get(key, "") in self._held

    def lose(self, fence: Fence) -> None:
        if self._held.get(fence.resource) == fence:
            log.info("fleet %s: another engine acts for it now", fence.resource)
            self._lost(fence.resource, self._forget(fence.resource))

    def closed(self, fleet_id: str) -> None:
        """Its keys are remembered for a while: they are woken a last time or two."""
        self._held.pop(fleet_id, None)
        self._ended[fleet_id] = None
        while len(self._ended) > REMEMBERED:
            self._forget(next(iter(self._ended)))

    def _forget(self, fleet_id: str) -> list[Key]:
        self._held.pop(fleet_id, None)
        self._ended.pop(fleet_id, None)
        keys = list(self._keys.pop(fleet_id, ()))
        for key in keys:
            self._fleet_of.pop(key, None)
        return keys

    def look(self) -> None:
        self._early.set()

    async def stop(self) -> None:
        if self._beat is not None:
            self._beat.cancel()
            await asyncio.wait({self._beat})
        try:
            if await self._database.write(leases.release, self.owner):
                self._freed()
        except DstackJupyterError as error:
            log.info("the leases run out by themselves: %s", error.message)
