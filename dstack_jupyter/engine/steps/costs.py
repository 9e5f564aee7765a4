"""What machines cost, and which of them cost without need. Pure functions; dollars, seconds, times since the epoch.

What is not known is None, and stays None in every sum: an unknown price never counts as nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...models.instances import OFF, OFF_BILLED, Guard
from ...models.states import InstanceState

PATIENCE = 600.0
"""Seconds after which a machine that is to end, or a create that nobody knows the outcome of, is shown as stuck."""


def cost(price: float | None, begun: float | None, until: float) -> float | None:
    """What a machine has cost by ``until``: 0 before the vendor had it (``begun`` None), None where its price is not known."""
    if begun is None:
        return 0.0
    return None if price is None else price * max(0.0, until - begun) / 3600


def total(amounts: Iterable[float | None]) -> float | None:
    """The sum; None as soon as one of them is not known."""
    so_far = 0.0
    for amount in amounts:
        if amount is None:
            return None
        so_far += amount
    return so_far


def stuck(
    *,
    state: InstanceState,
    status: str,
    guard: Guard,
    now: float,
    create_sent_at: float | None,
    rented_at: float | None,
    observed_at: float | None,
    ending_at: float | None,
    absent: bool,
) -> tuple[str, float | None]:
    """(what is wrong with a machine that may cost money for nothing, since when); ('', None) where all is well.

    ``status`` is the vendor's last one about it, told at ``observed_at``; ``absent``: it says that it has none, not yet proven.
    """
    if state == InstanceState.TERMINATED:
        return "", None
    if status == "stopped" and not absent:
        return (OFF_BILLED if guard.off_is_billed else OFF), observed_at
    if state == InstanceState.TERMINATING and ending_at is not None and now - ending_at > PATIENCE:
        return "does not end", ending_at
    if rented_at is None and create_sent_at is not None and now - create_sent_at > PATIENCE:
        return "not known whether it was made", create_sent_at
    return "", None
