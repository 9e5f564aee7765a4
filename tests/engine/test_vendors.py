"""One list for all who look at machines of an account: it is news for each of them, whoever's look made it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from dstack_jupyter.backends.base import Instance
from dstack_jupyter.engine import vendors as module
from dstack_jupyter.engine.vendors import Vendors


class Account:
    """``backends.base.Cloud`` as far as looks go."""

    mark = "one"

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
    account.machines[2] = replace(account.machines[2], word="stopped")
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
