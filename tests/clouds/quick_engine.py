"""An engine whose patience is shortened, for tests that wait for its end: ``python -m tests.clouds.quick_engine``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from dstack_jupyter.backends.digitalocean.cloud import DigitalOceanCloud
from dstack_jupyter.engine import __main__ as process
from dstack_jupyter.engine.provisioning import orders
from dstack_jupyter.engine.reconcilers import instance, timing
from dstack_jupyter.engine.steps import instance as steps
from dstack_jupyter.machines import userdata

from ..shorten import shorten

if __name__ == "__main__":
    shorten(userdata, LEAST_SILENCE=8)
    orders.userdata.Recipe = partial(userdata.Recipe, tick=1)  # type: ignore[assignment,misc]
    shorten(timing, HEARTBEAT=2.0)
    shorten(instance, LOOK=2.0)
    shorten(steps, YOUNG_FLICKER=4.0, FLICKER=4.0)
    DigitalOceanCloud.traits = replace(DigitalOceanCloud.traits, absent_after=15.0)
    process.main()
