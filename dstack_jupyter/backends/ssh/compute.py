"""Hosts of SSH fleets as a backend. The engine writes what it observes into a file; that file is read here, without an engine."""

from __future__ import annotations

import json
from typing import Any

from ...models.backends import PermissionView
from ...models.errors import BackendError
from ...models.home import Home
from ...models.offers import OfferView, tabulated
from ..base import Feed


class SSHBackend:
    """``backends.base.Backend`` for hosts of the user's own. They are booked, never created or ended."""

    feed = Feed(fresh=0.0, patience=10.0, kept=False)
    """A file of ours: read at each query."""

    def account(self) -> str:
        return ""

    def offers(self) -> dict[str, list[Any]]:
        path = Home.default().cache / "hosts.json"
        try:
            rows = json.loads(path.read_bytes())
        except FileNotFoundError:
            rows = []
        except ValueError as error:
            raise BackendError(f"{path} cannot be read", hint="it is written anew when the engine starts: remove it") from error
        return tabulated(rows)

    def check(self) -> list[PermissionView]:
        """The hosts that could be used when they were last seen; `%dstack fleets` says what is wrong with the others."""
        rows = zip(self.offers()["instance_type"], self.offers()["reason"], strict=True)
        return [
            PermissionView(backend="ssh", permission=f"login on {host}", purpose="jobs", status="granted", hint=str(reason))
            for host, reason in rows
        ]

    def create_instance(self, identity: str, offer: OfferView) -> dict[str, Any]:
        """Never called: hosts are booked."""
        raise BackendError("a host of an SSH fleet cannot be created")

    def terminate_instance(self, identity: str, data: dict[str, Any]) -> None:
        """Never called: the host is the user's."""
        raise BackendError("a host of an SSH fleet cannot be ended")
