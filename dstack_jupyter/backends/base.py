"""The few protocols between the engine and a backend.

Vendor code blocks, so the engine calls all of this in a bounded thread pool, never on its loop; calls for different
instances come at once. Errors are ``models.errors``; a time-out of a create means unknown, never failed (D3).
"""

from __future__ import annotations

from typing import Any, Protocol

from ..models.runs import OfferView, PermissionView


class Backend(Protocol):
    """One configured backend. Made once by the registry."""

    def offers(self) -> dict[str, list[Any]]:
        """All its offers as columns of ``offers.table``. Called for every plan and query: answer from a cache."""

    def check(self) -> list[PermissionView]:
        """Each right that it needs, and whether it is there. Called when a user asks; may take seconds, changes nothing."""

    def create_instance(self, identity: str, offer: OfferView) -> dict[str, Any]:
        """Make the instance of a stored intent; with the same identity again it gives the same instance, never a second.

        Returns JSON that the later calls need. Called by the fleet reconciler. Raises NoCapacity, BackendError.
        """

    def terminate_instance(self, identity: str, data: dict[str, Any]) -> None:
        """End the instance; returns only when the vendor says that it is gone. One that is gone already is fine."""
