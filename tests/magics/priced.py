"""A vendor in memory whose machines cost money and never boot: for what a user must be asked before, and is shown after."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from dstack_jupyter.backends.base import CloudResource, Feed, Instance, InstanceRequest, ResourceRequest, Traits
from dstack_jupyter.models.backends import PermissionView
from dstack_jupyter.models.errors import NoCapacity

SOLD_OUT = "moon-0"
"""A region that takes no order."""


class PricedCloud:
    """``backends.base.Cloud``."""

    traits = Traits(resend="name", stopped_is_billed=True, user_data=1 << 16)
    account_id = "priced"

    def __init__(self) -> None:
        self._machines: dict[str, Instance] = {}

    def needs(self, order: InstanceRequest) -> Sequence[ResourceRequest]:
        return ()

    def create(self, order: InstanceRequest) -> Instance:
        if order.offer.region == SOLD_OUT:
            raise NoCapacity("priced: no capacity")
        made = Instance(order.identity, {"id": order.identity}, "starting", "booting", created_at=time.time())
        return self._machines.setdefault(order.identity, made)

    def find(self, identity: str) -> list[Instance]:
        return [self._machines[identity]] if identity in self._machines else []

    def list_all(self, installation: str) -> list[Instance]:
        return list(self._machines.values())

    def get(self, data: Mapping[str, Any]) -> Instance | None:
        return self._machines.get(data["id"])

    def terminate(self, data: Mapping[str, Any]) -> bool:
        return self._machines.pop(data["id"], None) is not None

    def attach(self, need: ResourceRequest) -> CloudResource:
        raise NotImplementedError

    def list_attached(self, installation: str) -> list[CloudResource]:
        return []

    def detach(self, resource: CloudResource) -> None:
        raise NotImplementedError


class PricedBackend:
    """``backends.base.Clouds``. ``PRICED_PRICE``: dollars per hour, ``PRICED_REGIONS``: names joined by commas."""

    feed = Feed(patience=5.0)

    def __init__(self) -> None:
        self._cloud = PricedCloud()

    def account(self) -> str:
        return ""

    def check(self) -> list[PermissionView]:
        return []

    def checked(self) -> tuple[list[PermissionView], float] | None:
        return None

    def cloud(self, project: str = "main") -> PricedCloud:
        return self._cloud

    def offers(self) -> dict[str, list[Any]]:
        regions = os.environ.get("PRICED_REGIONS", "moon-1").split(",")
        row = {
            "backend": "priced",
            "instance_type": "gpu-1",
            "cpus": 8.0,
            "memory_gb": 64.0,
            "disk_gb": 500.0,
            "gpu_vendor": "nvidia",
            "gpu_name": "H100",
            "gpu_count": 1,
            "gpu_memory_gb": 80.0,
            "cpu_arch": "x86",
            "spot": False,
            "price": float(os.environ.get("PRICED_PRICE", "3.5")),
            "availability": "available",
        }
        return {"region": regions, **{name: [value] * len(regions) for name, value in row.items()}}
