"""The work queue: one handler per key at a time, no wake lost, faults of one key are its own."""

from __future__ import annotations

import asyncio

from dstack_jupyter.engine.queue import Key, Next, WorkQueue


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
