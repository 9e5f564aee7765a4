from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.clouds.fixtures import OFFERS, Site, make_site
from tests.hosts.fixtures import image_folder

__all__ = ["image_folder", "make_site"]


@pytest.fixture(params=sorted(OFFERS))
def site(request: pytest.FixtureRequest, make_site: Callable[..., Site]) -> Site:
    """Each vendor that has a fake, with all rights."""
    return make_site(request.param)
