"""The few protocols between the engine and a backend.

Vendor code blocks, so the engine calls all of this in a bounded thread pool, never on its loop; calls for different
instances come at once. Errors are ``models.errors``; a time-out of a create means unknown, never failed (D3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..models.runs import OfferView, PermissionView

Columns = Mapping[str, Sequence[Any]]
"""Offers as columns of equal length under the names of ``OfferView``; ``backend``, ``instance_type``, ``cpus``, ``memory_gb``
and ``price`` are needed, another that is absent is empty. NaN is a number that the vendor does not tell: such memory passes
filters, such a price fails ``max_price``; ``reason`` then says what is not known."""


@dataclass(frozen=True, slots=True)
class Feed:
    """How the offers of a live source are kept between queries (``live.Live`` does it; a backend only states it)."""

    fresh: float = 300.0
    """Seconds that an answer serves without being asked for again. An older one still serves, with its age, meanwhile."""
    deadline: float = 30.0
    """Seconds after which a call that has not come back is shown as a source that does not answer. The call itself must end
    by time-outs of its own: its thread cannot be ended, and until it ends the source is not asked again."""
    patience: float = 0.0
    """Seconds that a query waits where there is no fresh answer. 0 for everything with a network in between."""
    kept: bool = True
    """Whether answers and errors are kept on disk for other processes of this user."""


class OfferSource(Protocol):
    """Where a backend's offers come from."""

    feed: Feed

    def account(self) -> str:
        """What the answer depends on: account or project, regions; '' where there is one only. No secret: its hash names a file.

        Called on the thread of every query and plan, so it must not block on a network. Raises BackendNotAvailable where
        nothing is configured: that is the source's line beside the rows, and it is not asked.
        """

    def offers(self) -> Columns:
        """All its offers, whatever the query, from the vendor now. Keeps nothing itself.

        Called on a daemon thread of its own, one call at a time for each account among all processes of a user; may block,
        up to about ``feed.deadline``; changes nothing at the vendor. What it raises becomes the line beside the rows, after
        secrets are taken out, and the last good answer stays.
        """


class Backend(OfferSource, Protocol):
    """One backend that can make machines. Made once by the registry."""

    def check(self) -> list[PermissionView]:
        """Each right that it needs, and whether it is there. Called when a user asks; may take seconds, changes nothing."""

    def create_instance(self, identity: str, offer: OfferView) -> dict[str, Any]:
        """Make the instance of a stored intent; with the same identity again it gives the same instance, never a second.

        Returns JSON that the later calls need. Called by the fleet reconciler. Raises NoCapacity, BackendError.
        """

    def terminate_instance(self, identity: str, data: dict[str, Any]) -> None:
        """End the instance; returns only when the vendor says that it is gone. One that is gone already is fine."""
