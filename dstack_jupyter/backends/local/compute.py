"""This machine as a backend: one offer, no price, there already."""

from __future__ import annotations

import time
from typing import Any

from ...machines.facts import HostFacts, local_facts
from ...models.home import Home
from ...models.runs import OfferView

FRESH = 30.0
"""Seconds that facts stay good: asking nvidia-smi takes long, and only the free disk moves."""


def columns(facts: HostFacts) -> dict[str, list[Any]]:
    """The offer of a machine with these facts. Mixed GPUs: the most frequent kind is what is offered."""
    names = [gpu.name for gpu in facts.gpus]
    name = max(set(names), key=names.count, default="")
    gpus = [gpu for gpu in facts.gpus if gpu.name == name]
    return {
        "backend": ["local"],
        "region": ["local"],
        "zone": [""],
        "instance_type": ["local"],
        "cpus": [facts.cpus],
        "memory_gb": [facts.memory_gb],
        "disk_gb": [facts.disk_gb],
        "gpu_vendor": [gpus[0].vendor if gpus else ""],
        "gpu_name": [name],
        "gpu_count": [len(gpus)],
        "gpu_memory_gb": [gpus[0].memory_gb if gpus else 0.0],
        "cpu_arch": [facts.arch],
        "spot": [False],
        "price": [0.0],
        "availability": ["available"],
        "reason": [""],
        "source": ["host"],
        "price_date": [""],
    }


class LocalBackend:
    """``backends.base.Backend`` for the machine that the engine runs on."""

    def __init__(self) -> None:
        self._asked = float("-inf")
        self._columns: dict[str, list[Any]] = {}

    def offers(self) -> dict[str, list[Any]]:
        if time.monotonic() - self._asked > FRESH:
            self._columns = columns(local_facts(Home.default().root))
            self._asked = time.monotonic()
        return self._columns

    def create_instance(self, identity: str, offer: OfferView) -> dict[str, Any]:
        """It is there already."""
        return {}

    def terminate_instance(self, identity: str, data: dict[str, Any]) -> None:
        """The machine is the user's: only our job ends, which it has."""
