"""A backend that costs money and runs its jobs on this machine: for what a user must be asked before."""

from __future__ import annotations

import os
from typing import Any

from dstack_jupyter.backends.base import Feed
from dstack_jupyter.models.runs import OfferView


class PricedBackend:
    feed = Feed(patience=5.0)

    def account(self) -> str:
        return ""

    def offers(self) -> dict[str, list[Any]]:
        row = {
            "backend": "priced",
            "region": "moon-1",
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
        return {name: [value] for name, value in row.items()}

    def create_instance(self, identity: str, offer: OfferView) -> dict[str, Any]:
        return {}

    def terminate_instance(self, identity: str, data: dict[str, Any]) -> None:
        pass
