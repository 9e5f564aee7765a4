"""One engine after another on one store and one world: the lives that a crash divides."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.models.home import Home

from . import backend
from .loop import Crashed, StoreThread, VirtualLoop, attach
from .machines import SimulatedMachines
from .world import World

Result = TypeVar("Result")


class Life:
    """An engine on a virtual loop, from its start to its crash or its end. Call ``end`` or, after a crash, ``bury``."""

    def __init__(self, home: Home, world: World, *, crash_at: int = 0) -> None:
        attach()
        backend.use(world)
        self.loop = VirtualLoop(world.time, crash_at)
        self.engine = Engine(home, machines=lambda _home, _db, _keys, installation, *_: SimulatedMachines(world, installation))
        for lane in self.engine._database._lanes:
            lane.thread = StoreThread()  # type: ignore[assignment]
        self.started = False

    def run(self, what: Callable[[Engine], Awaitable[Result]]) -> Result:
        """Start the engine if that is still to be done, and run ``what`` beside it. Raises Crashed, Quiet."""

        async def main() -> Result:
            if not self.started:
                await self.engine.start()
                self.started = True
            return await what(self.engine)

        return self.loop.live(main())

    def end(self) -> None:
        """A clean end."""
        self.loop.live(self.engine.stop())
        self.loop.bury()

    def bury(self) -> None:
        """After a crash: what the operating system does, and no more."""
        self.engine._database._shut()
        self.loop.bury()


__all__ = ["Crashed", "Life"]
