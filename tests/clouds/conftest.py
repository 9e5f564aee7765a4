from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from dstack_jupyter.engine.jobs.spec import ENV_IMAGE
from dstack_jupyter.engine.provisioning.vendor_calls import Vendors
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.models.home import Home
from tests.clouds.accounts import Make, Past, hour_ago
from tests.clouds.core import Backing, RealClock
from tests.clouds.fixtures import INSTALLATION, OFFERS, Site, make_site
from tests.clouds.journeys import Journey
from tests.clouds.real import RealMachines
from tests.hosts.fixtures import image_folder

__all__ = ["image_folder", "make_site"]


@pytest.fixture
async def past(make_site: Make, database: Database) -> AsyncIterator[Past]:
    """An account that this installation used an hour ago, and what the store knows of it."""
    vendors = Vendors(INSTALLATION)
    found = Past(make_site(clock=hour_ago()), database, vendors)
    await found.use()
    yield found
    vendors.close()


@pytest.fixture(params=sorted(OFFERS))
def site(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    """Each vendor that has a fake, with all rights."""
    return make_site(request.param)


@pytest.fixture
def begin(
    real: RealMachines, home: Home, make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Journey]]:
    """A journey whose runs without an image are processes: the image of a machine is not what is tested here."""
    monkeypatch.setenv(ENV_IMAGE, "")
    made: list[Journey] = []

    def journey(backing: Backing = real, **more: Any) -> Journey:
        found = Journey(home, make_site(backing=backing, clock=RealClock()), **more)
        made.append(found)
        found.start()
        return found

    yield journey
    for each in made:
        if each.engine is not None:
            for run in each.client.runs():
                run.stop(abort=True)
        each.end()
