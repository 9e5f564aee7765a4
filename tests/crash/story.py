"""What users do in a trial, step by step: each step can be done again by a client whose engine died under it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.models.errors import NotFound
from dstack_jupyter.models.fleets_view import FleetRequest
from dstack_jupyter.models.frames import EndFrame, GapFrame, LogFrame
from dstack_jupyter.models.runs import ApplyRequest, CodeRef, Context, PlanRequest, RunView
from tests.simulated.world import World

PATIENCE = 1800.0
"""Virtual seconds that anything may take."""


class Late(AssertionError):
    """What a user waited for did not come."""


@dataclass
class Heard:
    """What one follower received of a run's log: the bytes of each attempt, gaps as (offset, end)."""

    attempt: str = ""
    logs: dict[str, bytearray] = field(default_factory=dict)
    gaps: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    offset: int = 0
    ended: str = ""


@dataclass
class Story:
    world: World
    heard: dict[str, Heard] = field(default_factory=dict)
    submitted: set[str] = field(default_factory=set)
    """Keys of requests that were answered."""
    asked: set[str] = field(default_factory=set)
    """Runs whose stop was answered."""
    done: set[str] = field(default_factory=set)
    note: str = ""
    """What was seen last of what is waited for."""

    def once(self, what: str) -> bool:
        """Whether something is to be done now: true the first time, whichever life that is in."""
        new = what not in self.done
        self.done.add(what)
        return new


Step = Callable[[Engine, Story], Awaitable[None]]


async def wait(what: str, found: Callable[[], Awaitable[Any]]) -> None:
    """Look again and again, ever more seldom: each look passes points that say nothing new."""
    end = asyncio.get_running_loop().time() + PATIENCE
    every = 0.2
    while not await found():
        if asyncio.get_running_loop().time() > end:
            raise Late(what)
        await asyncio.sleep(every)
        every *= 1.3


CODE = b"not unpacked by simulated machines"
SHA256 = hashlib.sha256(CODE).hexdigest()


async def upload(engine: Engine, story: Story) -> None:
    """Code of a run, as a client uploads it: not again if it is there."""
    if not await engine.service.has_code(SHA256):
        temporary = engine.home.code / ".uploaded"
        temporary.write_bytes(CODE)
        os.utime(temporary, (story.world.time.now, story.world.time.now))
        await engine.service.store_code(SHA256, temporary)


def apply(name: str, *commands: str, code: bool = False, **more: Any) -> Step:
    configuration = {"type": "task", "name": name, "shell": "sh", "backends": ["local"], "commands": list(commands), **more}

    refs = [CodeRef(sha256=SHA256)] if code else []

    async def step(engine: Engine, story: Story) -> None:
        request = ApplyRequest(configuration=configuration, request_key=f"key-{name}", context=Context(cwd="/"), code=refs)
        await engine.service.plan(PlanRequest(configuration=configuration))
        view = await engine.service.apply(request, user="ada")
        again = await engine.service.apply(request, user="ada")
        assert again.id == view.id, "the same request made two runs"
        story.submitted.add(name)

    return step


def state(name: str, *wanted: str) -> Step:
    """Wait until a run is seen in one of these states."""

    async def step(engine: Engine, story: Story) -> None:
        async def there() -> bool:
            view: RunView = await engine.service.run(name, project="main")
            return view.state in wanted

        await wait(f"{name} to be {wanted}", there)

    return step


def says(name: str, text: bytes) -> Step:
    """Wait until the stored log of a run holds ``text``."""

    async def step(engine: Engine, story: Story) -> None:
        async def there() -> bool:
            try:
                return text in b"".join([piece async for piece in engine.service.raw_log(name, project="main")])
            except NotFound:
                return False

        await wait(f"{name} to say {text!r}", there)

    return step


def follow(name: str) -> Step:
    """Follow a run to its end, from where the broken stream ended."""

    async def step(engine: Engine, story: Story) -> None:
        heard = story.heard.setdefault(name, Heard())
        async with asyncio.timeout(PATIENCE):
            async for frame in engine.service.stream(name, project="main", offset=heard.offset, attempt=heard.attempt):
                match frame:
                    case LogFrame():
                        _at(heard, frame)
                        data = base64.b64decode(frame.data)
                        heard.logs.setdefault(frame.attempt, bytearray()).extend(data)
                        heard.offset += len(data)
                    case GapFrame():
                        _at(heard, frame)
                        heard.gaps.setdefault(frame.attempt, []).append((frame.offset, frame.end))
                        heard.offset = frame.end
                    case EndFrame():
                        heard.ended = frame.run.state

    return step


def _at(heard: Heard, frame: LogFrame | GapFrame) -> None:
    if frame.attempt != heard.attempt:
        heard.attempt, heard.offset = frame.attempt, 0
    assert frame.offset == heard.offset, f"a follower was at {heard.offset} and got {frame.offset}"


def stop(name: str, *, abort: bool = False) -> Step:
    async def step(engine: Engine, story: Story) -> None:
        await engine.service.stop(name, project="main", abort=abort, user="ada")
        story.asked.add(name)

    return step


def fleet(name: str, *hosts: str, blocks: int = 1) -> Step:
    """Apply a fleet and wait until all its hosts can be used."""
    given: dict[str, Any] = {"user": "root", "hosts": [{"hostname": host, "blocks": blocks} for host in hosts]}
    configuration = {"type": "fleet", "name": name, "ssh_config": {**given, "identity_file": "key"}}

    async def step(engine: Engine, story: Story) -> None:
        await engine.service.fleets.apply(FleetRequest(configuration=configuration), user="ada")

        async def there() -> bool:
            view = await engine.service.fleets.get(name, project="main")
            story.note = str([(host.state, host.message) for host in view.hosts])
            return all(host.state in ("idle", "busy") for host in view.hosts)

        await wait(f"the hosts of {name}", there)

    return step


def give_back(name: str) -> Step:
    """Delete a fleet and wait until it is gone."""

    async def step(engine: Engine, story: Story) -> None:
        try:
            await engine.service.fleets.delete(name, project="main", user="ada")
        except NotFound:
            return

        async def gone() -> bool:
            return not await engine.service.fleets.list(project="main")

        await wait(f"fleet {name} to be gone", gone)

    return step


def happens(what: str, action: Callable[[World], object]) -> Step:
    """Something happens in the world, once."""

    async def step(engine: Engine, story: Story) -> None:
        if story.once(what):
            action(story.world)

    return step


class Restart(Exception):
    """The engine is asked to end, and the next one begins."""


async def restart(engine: Engine, story: Story) -> None:
    """A clean end in the middle of the work."""
    await engine.stop()
    raise Restart


async def folders(engine: Engine, story: Story) -> None:
    """The job folders of ended runs on this machine, for a real housekeeper to find."""
    for view in await engine.service.runs(project="main", all=True):
        for attempt in view.attempts:
            (engine.home.jobs / attempt.id).mkdir(exist_ok=True)


def pause(seconds: float) -> Step:
    async def step(engine: Engine, story: Story) -> None:
        await asyncio.sleep(seconds)

    return step


async def look_back(engine: Engine, story: Story) -> None:
    """What a user asks afterwards."""
    for view in await engine.service.runs(project="main", all=True):
        again = await engine.service.run(view.id, project="main")
        assert again.state == view.state
        if view.attempts:
            stored = b"".join([piece async for piece in engine.service.raw_log(view.id, project="main")])
            heard = story.heard.get(view.name)
            if heard is not None:
                assert stored == bytes(heard.logs.get(view.attempts[-1].id, b"")), "a follower and the store disagree"
        assert await engine.service.events(project="main", run=view.id)
    found = await engine.service.events(project="main", limit=1000)
    seen = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            async for event in engine.service.follow_events(project="main", after=0):
                # A machine may still be on its way out.
                assert event.seq > found[-1].seq, f"a follower of what is new heard {event}"
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            async for event in engine.service.follow_events(project="main", after=found[0].seq):
                seen.append(event.seq)
    known = [event.seq for event in found[1:]]
    assert seen[: len(known)] == known
