"""What all backends with an account at a vendor share: one account for each project, its offers, its checks."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, Protocol, TypeVar

from ..models.backends import PermissionView
from . import kept_rights
from .base import Cloud, Columns, Feed
from .config.base import BackendConfig
from .config.configured import entry_of

Config = TypeVar("Config", bound=BackendConfig)


class Account(Cloud, Protocol):
    """The cloud that each vendor's folder has to give; it also tells its offers and its rights."""

    def offers(self) -> Columns:
        """As ``OfferSource.offers``, in every region."""

    def check(self) -> list[PermissionView]:
        """As ``Backend.check``."""


class Vendor(ABC, Generic[Config]):
    """``backends.base.Backend`` and ``Clouds``. A vendor gives ``name``, ``config_type`` and ``connect``."""

    name: ClassVar[str]
    config_type: type[Config]
    feed = Feed()

    def __init__(self) -> None:
        self._accounts: dict[str, tuple[Config, str, Account]] = {}
        self._connecting = threading.Lock()

    @abstractmethod
    def connect(self, config: Config, endpoint: str) -> Account:
        """The account of an entry. Calls nobody and imports nothing heavy: every query of offers comes by here."""

    @abstractmethod
    def endpoint(self) -> str:
        """Where the vendor's API is at present."""

    def cloud(self, project: str = "main") -> Account:
        config = entry_of(self.name, project)
        assert isinstance(config, self.config_type)
        endpoint = self.endpoint()
        with self._connecting:
            entry = self._accounts.get(project)
            if entry is None or entry[0] is not config or entry[1] != endpoint:
                entry = self._accounts[project] = (config, endpoint, self.connect(config, endpoint))
            return entry[2]

    def account(self) -> str:
        cloud = self.cloud()
        return f"{cloud.account_id} {' '.join(self._accounts['main'][0].regions or ())}"

    def offers(self) -> Columns:
        """In the regions of the entry, or all."""
        columns = self.cloud().offers()
        regions = self._accounts["main"][0].regions
        if regions is None:
            return columns
        rows = [row for row, region in enumerate(columns["region"]) if region in regions]
        return {name: [values[row] for row in rows] for name, values in columns.items()}

    def check(self) -> list[PermissionView]:
        cloud = self.cloud()
        rows = cloud.check()
        kept_rights.keep(self.name, cloud.account_id, rows)
        return rows

    def checked(self) -> tuple[list[PermissionView], float] | None:
        """What the last check of this account found, and its age in seconds. Asks nobody."""
        return kept_rights.kept(self.name, self.cloud().account_id)
