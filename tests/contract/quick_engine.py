"""An engine that looks at its machines more often, for tests that wait for a machine to be missed."""

from __future__ import annotations

from dstack_jupyter.engine import __main__ as process
from dstack_jupyter.engine.reconcilers import instance, watchdog
from dstack_jupyter.engine.steps import instance as steps

from ..shorten import shorten


def hurry() -> None:
    """In a process of its own only: whoever imports this keeps the times that users have."""
    shorten(instance, LOOK=2.0)
    shorten(steps, YOUNG_FLICKER=4.0)
    shorten(watchdog, EVERY=1.0)


if __name__ == "__main__":
    hurry()
    process.main()
