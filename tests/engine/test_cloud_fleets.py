"""Fleets of clouds' machines in a whole engine over a simulated vendor, in virtual time. The crash walker walks these stories."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import STORES
from tests.crash import scenarios_cloud, stores, trial
from tests.crash.scenarios import Scenario


@pytest.fixture(scope="module", params=STORES)
def store(request: pytest.FixtureRequest) -> Iterator[stores.Store]:
    if request.param == "sqlite":
        found: stores.Store = stores.SQLite()
    else:
        found = stores.PostgreSQL(request.getfixturevalue("postgres"))
    yield found
    found.remove()


@pytest.mark.parametrize("story", scenarios_cloud.CLOUD, ids=lambda story: story.name)
def test_each_story_ends_as_it_must(store: stores.Store, story: Scenario) -> None:
    breaches = trial.run(story, store).breaches
    assert not breaches, "\n".join(breaches)
