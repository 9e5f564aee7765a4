"""One list for all who look at machines of an account: it is news for each of them, whoever's look made it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from dstack_jupyter.backends.base import Instance
from dstack_jupyter.engine.provisioning import vendor_calls as module
from dstack_jupyter.engine.provisioning.vendor_calls import Vendors
from dstack_jupyter.engine.runtime.queue import Key, Next, WorkQueue


class Account:
    """``backends.base.Cloud`` as far as looks go."""

    account_id = "one"

    def __init__(self, count: int) -> None:
        self.machines = {number: Instance(f"m{number}", {"n": number}, "running") for number in range(count)}
        self.lists = self.gets = 0

    def list_all(self, installation: str) -> list[Instance]:
        self.lists += 1
        return list(self.machines.values())

    def get(self, data: Mapping[str, Any]) -> Instance | None:
        self.gets += 1
        return self.machines.get(data["n"])


@pytest.fixture
async def vendors() -> AsyncIterator[Vendors]:
    found = Vendors("a1b2c3d4")
    yield found
    found.close()


@pytest.fixture(autouse=True)
def every_look_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """No list serves later looks; looks count as many for ever."""
    monkeypatch.setattr(module, "AGE", 1e-9)
    monkeypatch.setattr(module, "MANY", 1)


async def look(vendors: Vendors, account: Any, number: int, told: list[int]) -> Instance | None:
    return await vendors.look(account, f"m{number}", {"n": number}, lambda: told.append(number))


async def test_who_looks_at_a_machine_hears_that_anothers_list_has_it_otherwise(vendors: Vendors) -> None:
    account, told = Account(4), list[int]()
    for number in range(4):
        await look(vendors, account, number, told)
    assert told == []
    account.machines[2] = replace(account.machines[2], status="stopped")
    await look(vendors, account, 0, told)
    assert told == [2]
    await look(vendors, account, 0, told)
    assert told == [2], "once for each change"


async def test_a_machine_that_a_list_lacks_is_news_until_it_was_looked_at(vendors: Vendors) -> None:
    account, told = Account(4), list[int]()
    for number in range(4):
        await look(vendors, account, number, told)
    del account.machines[3]
    await look(vendors, account, 0, told)
    assert told == [3]
    assert await look(vendors, account, 3, told) is None
    account.machines[3] = Instance("m3", {"n": 3}, "running")
    await look(vendors, account, 0, told)
    account.machines[3] = Instance("m3", {"n": 3}, "stopped")
    await look(vendors, account, 0, told)
    assert told == [3], "nobody looks at it any more"


class Silent(Account):
    """A vendor that does not answer until the gate opens."""

    account_id = "silent"

    def __init__(self) -> None:
        super().__init__(0)
        self.gate = threading.Event()

    def create(self, identity: str) -> None:
        self.gate.wait(60)


async def test_a_vendor_that_does_not_answer_holds_up_nobody_but_itself(vendors: Vendors) -> None:
    """Neither with its threads, however many calls it has, nor with the slots of the work queue."""
    silent, other, ended = Silent(), Account(1), asyncio.Event()

    async def handler(key: Key) -> Next:
        if key.id == "other":
            assert await vendors.call(other.account_id, other.get, {"n": 0}) is not None
            ended.set()
        else:
            await vendors.call(silent.account_id, silent.create, key.id)
        return Next()

    queue = WorkQueue(handler, parallel=2)
    try:
        for number in range(2 * module.THREADS):
            queue.add(Key("instance", f"silent {number}"))
        queue.add(Key("instance", "other"))
        async with asyncio.timeout(10):
            await ended.wait()
    finally:
        silent.gate.set()
        await queue.close()


async def test_what_ends_something_waits_behind_nothing_else(vendors: Vendors) -> None:
    """A thousand creates at a slow vendor must not keep a machine that is to go: it costs until it does."""
    mark, order, turns = "slow", list[str](), threading.Semaphore(0)

    def note(what: str) -> None:
        order.append(what)

    slow = [asyncio.ensure_future(vendors.call(mark, turns.acquire, True, 60)) for _ in range(module.THREADS)]
    late = [asyncio.ensure_future(vendors.call(mark, note, f"create {number}")) for number in range(3)]
    await asyncio.sleep(0)
    late[0].cancel()
    late.append(asyncio.ensure_future(vendors.call(mark, note, "delete", ends=True)))
    await asyncio.sleep(0)
    assert order == []
    turns.release()  # one thread is free
    await asyncio.gather(*late, return_exceptions=True)
    assert order == ["delete", "create 1", "create 2"]
    turns.release(module.THREADS)
    await asyncio.gather(*slow)
    every = [vendors.call(mark, note, "again") for _ in range(2 * module.THREADS)]
    await asyncio.gather(*every)
    assert order.count("again") == len(every), "who was cancelled took no turn with it"
