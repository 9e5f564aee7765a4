"""Two engines at a vendor's calls (R1, R2, R7): wherever the first loses its lease, one machine has a name, and none is left.

With SQLite the second is another life of the first one's home, with PostgreSQL an engine of another home that takes what has
run out. Each story is told once whole, then once for each moment of a vendor's call: at every moment and with all lengths of the
call where ``DJ_TWO_ENGINES=all`` (``make soak``), else with one length in turn at those that change something and, in
``LOOKED_AT``, at those looks that have a future of their own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dstack_jupyter.engine.keys.vault import ENV_KEY_FILE
from dstack_jupyter.models.home import ENV_HOME, Home
from tests.conftest import home_at

from . import scenarios_cloud, scenarios_rented
from .pair import Outcome, Pair
from .scenarios import Scenario
from .stores import PostgreSQL, SQLite, Store

ALL = os.environ.get("DJ_TWO_ENGINES") == "all"
HELD = (0.5, 12.0, 90.0)
"""Seconds for which a call is on its way: its engine has not heard yet that it lost its lease; it has; the call is later than a
vendor's list may be (``Traits.settles``), so that the second has done all of it again."""
STORIES = (
    "rented",
    "rented, stopped while it runs",
    "a late create of a run that was stopped",
    "a create without an answer",
    "by token: a create without an answer that comes late",
    "a create that makes two machines",
    "a thing without an answer, and a stop",
    "an order that is refused",
    "the first offers are sold out",
    "off under a run",
    "deletes that are refused, and machines that linger",
    "rented nodes",
    "a fleet is filled, and ended when it is deleted",
)
LOOKED_AT = STORIES[2:4]
SHARED = STORIES if ALL else (STORIES[0], STORIES[3])
"""Those that are told on PostgreSQL too, which takes four times as long."""


@dataclass(frozen=True)
class Place:
    store: Store
    homes: tuple[Home, Home]

    def tell(self, scenario: Scenario, hold_at: int = 0, held: float = 0.0, *, loses: bool = True) -> Outcome:
        return Pair(scenario, self.store, self.homes, hold_at, held, loses=loses).run()


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder: Path = tmp_path_factory.mktemp("two-engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENV_KEY_FILE, str(folder / "team.json"))
        store: Store
        if request.param == "sqlite":
            store = SQLite()
            homes = store.home, store.home
        else:
            server = request.getfixturevalue("postgres")
            store = PostgreSQL(server)
            homes = store.home, home_at(folder / "other", server.url(store.database))
        patch.setenv(ENV_HOME, str(store.home.root))
        logging.disable(logging.CRITICAL)  # of what goes wrong on purpose, a thousand times
        yield Place(store, homes)
        logging.disable(logging.NOTSET)
        store.remove()


@pytest.mark.timeout(1800 if ALL else 120)
@pytest.mark.parametrize(
    ("place", "story"),
    [(kind, story) for kind, stories in (("sqlite", STORIES), ("postgresql", SHARED)) for story in stories],
    indirect=["place"],
)
def test_r7_a_lease_that_is_lost_during_a_vendor_s_call_makes_no_second_machine_and_leaves_none(place: Place, story: str) -> None:
    """F02 dstack#707, F15 kuberay#715."""
    scenario = next(each for each in (*scenarios_rented.RENTED, *scenarios_cloud.CLOUD) if each.name == story)
    whole = place.tell(scenario)
    assert whole.breaches == []
    refused = 0
    for turn, number in enumerate(_moments(whole, place.store.kind == "sqlite" and story in LOOKED_AT)):
        for held in HELD if ALL else (HELD[(turn + STORIES.index(story)) % len(HELD)],):
            found = place.tell(scenario, number, held)
            where = f"moment {number}, {whole.moments[number - 1]}, held for {held} s"
            assert found.moments[:number] == whole.moments[:number], f"{where}: not the same trial twice"
            assert found.breaches == [], where
            assert found.lost, where
            refused += found.refused
    assert refused, "the first engine never had anything to store: its fence was not tried"


@pytest.mark.parametrize("place", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("story", ["rented, stopped at once", "stopped while it is tried again after an interruption"])
def test_r6_a_stop_during_a_vendor_s_call_is_heard_before_the_next_create(place: Place, story: str) -> None:
    """F23 skypilot#4410: here one engine acts, and each call of its makings is on its way for a quarter of a minute."""
    scenario = next(each for each in scenarios_rented.RENTED if each.name == story)
    makes = [
        number
        for number, name in enumerate(place.tell(scenario).moments, 1)
        if name.startswith(("vendor.attach", "vendor.create"))
    ]
    assert makes
    for number in makes:
        assert place.tell(scenario, number, 15.0, loses=False).breaches == [], f"moment {number}"


def _moments(whole: Outcome, looks: bool) -> list[int]:
    if ALL:
        return list(range(1, len(whole.moments) + 1))
    changes = [not name.endswith(("asked", "answered")) for name in whole.moments]
    return [number for number in whole.classes() if changes[number - 1] or looks]
