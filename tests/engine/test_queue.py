"""The work queue: one handler per key at a time, no wake lost, faults of one key are its own."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar

from dstack_jupyter.engine.runtime.queue import Key, Next, WorkQueue, release_slot


async def until(*events: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        for event in events:
            await event.wait()


async def test_a_key_is_handled_by_one_task_at_a_time_and_a_wake_meanwhile_is_not_lost() -> None:
    running, most, rounds = 0, 0, 0
    gate, done = asyncio.Event(), asyncio.Event()

    async def handler(key: Key) -> Next:
        nonlocal running, most, rounds
        running += 1
        most = max(most, running)
        rounds += 1
        await gate.wait()
        running -= 1
        if rounds == 2:
            done.set()
        return Next()

    queue = WorkQueue(handler)
    key = Key("attempt", "1")
    queue.add(key)
    await asyncio.sleep(0)
    for _ in range(5):
        queue.add(key)
    gate.set()
    await until(done)
    await queue.close()
    assert (most, rounds) == (1, 2)


async def test_a_failing_key_is_retried_and_stops_no_other() -> None:
    """F28 ray#21151, F29 dstack#1053."""
    tries: list[str] = []
    heard: list[str] = []
    bad, good = asyncio.Event(), asyncio.Event()

    async def handler(key: Key) -> Next:
        tries.append(key.id)
        if key.id == "bad" and tries.count("bad") == 1:
            raise ValueError("broken")
        (bad if key.id == "bad" else good).set()
        return Next()

    queue = WorkQueue(handler, failed=lambda key, error: heard.append(f"{key.id}: {error}"))
    queue.add(Key("attempt", "bad"))
    queue.add(Key("attempt", "good"))
    await until(good, bad)
    await queue.close()
    assert heard == ["bad: broken"]
    assert tries.count("bad") == 2


async def test_wakes_during_a_rest_are_merged_into_one_look() -> None:
    looks = 0
    second = asyncio.Event()

    async def handler(key: Key) -> Next:
        nonlocal looks
        looks += 1
        if looks == 2:
            second.set()
        return Next(rest=0.05)

    queue = WorkQueue(handler)
    key = Key("attempt", "1")
    queue.add(key)
    while not looks:
        await asyncio.sleep(0)
    for _ in range(100):
        queue.add(key)
        await asyncio.sleep(0)
    assert looks == 1
    await until(second)
    await queue.close()


async def test_a_guard_looks_again_without_a_wake() -> None:
    looks = asyncio.Semaphore(0)

    async def handler(key: Key) -> Next:
        looks.release()
        return Next(guard=0.01)

    queue = WorkQueue(handler)
    queue.add(Key("attempt", "1"))
    async with asyncio.timeout(10):
        for _ in range(3):
            await looks.acquire()
    await queue.close()


async def test_idle_means_no_timer_and_no_memory_of_the_key() -> None:
    done = asyncio.Event()

    async def handler(key: Key) -> Next:
        done.set()
        return Next()

    queue = WorkQueue(handler)
    queue.add(Key("attempt", "1"))
    await until(done)
    await asyncio.sleep(0)
    assert queue._entries == {}
    await queue.close()


async def test_each_kind_has_slots_of_its_own() -> None:
    gate, other = asyncio.Event(), asyncio.Event()

    async def handler(key: Key) -> Next:
        if key.kind == "fleet":
            await gate.wait()
        else:
            other.set()
        return Next()

    queue = WorkQueue(handler, parallel=1)
    queue.add(Key("fleet", "1"))
    queue.add(Key("fleet", "2"))
    queue.add(Key("instance", "1"))
    await until(other)
    gate.set()
    await queue.close()


async def test_a_handler_that_waits_for_somebody_outside_lends_its_slot_and_goes_on_at_once_when_it_is_back() -> None:
    gate, second, back = asyncio.Event(), asyncio.Event(), asyncio.Event()
    order: list[str] = []

    async def handler(key: Key) -> Next:
        if key.id == "1":
            with release_slot(), release_slot():  # within itself it lends nothing more
                await gate.wait()
            order.append("1")
            back.set()
        elif key.id == "2":
            second.set()
            await back.wait()
            order.append("2")
        else:
            order.append(key.id)
        return Next()

    queue = WorkQueue(handler, parallel=1)
    for id in ("1", "2", "3"):
        queue.add(Key("instance", id))
    await until(second)
    assert order == [], "the third has no slot: only one was lent"
    gate.set()
    await until(back)
    while len(order) < 3:
        await asyncio.sleep(0)
    assert order == ["1", "2", "3"]
    await queue.close()


async def test_outside_of_a_handler_there_is_no_slot_to_lend() -> None:
    with release_slot():
        pass


def one_slot(gate: asyncio.Event, looks: list[str]) -> WorkQueue:
    """A queue whose handlers wait at the gate; ``looks`` gets the ids in the order in which they come there."""

    async def handler(key: Key) -> Next:
        looks.append(key.id)
        await gate.wait()
        return Next()

    return WorkQueue(handler, parallel=1)


async def test_wakes_while_it_waits_for_a_slot_are_one_look() -> None:
    gate, looks = asyncio.Event(), list[str]()
    queue = one_slot(gate, looks)
    queue.add(Key("attempt", "1"))
    for _ in range(5):
        queue.add(Key("attempt", "2"))
        await asyncio.sleep(0)
    gate.set()
    while queue._entries:
        await asyncio.sleep(0)
    assert looks == ["1", "2"]
    await queue.close()


async def test_what_is_dropped_while_it_waits_for_a_slot_is_not_handled_until_it_is_added_again() -> None:
    gate, looks = asyncio.Event(), list[str]()
    queue = one_slot(gate, looks)
    for id in ("1", "2", "3"):
        queue.add(Key("attempt", id))
    queue.drop(Key("attempt", "2"))
    queue.drop(Key("attempt", "3"))
    queue.add(Key("attempt", "3"))
    gate.set()
    while queue._entries:
        await asyncio.sleep(0)
    assert looks == ["1", "3"]
    await queue.close()


async def test_a_handler_inherits_nothing_from_who_woke_it() -> None:
    """What a reconciler acts for (`store.fence.acting`) would else be taken for what the woken one acts for."""
    said: ContextVar[str] = ContextVar("said", default="nothing")
    heard: list[str] = []
    done = asyncio.Event()

    async def handler(key: Key) -> Next:
        heard.append(said.get())
        said.set(key.id)
        if key.id == "1":
            queue.add(Key("attempt", "2"))
        else:
            done.set()
        return Next()

    queue = WorkQueue(handler)
    said.set("the test")
    queue.add(Key("attempt", "1"))
    await until(done)
    await queue.close()
    assert heard == ["nothing", "nothing"]
