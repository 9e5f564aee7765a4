"""This machine as a backend: one offer, no price, there already."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, Literal

from ...machines.facts import HostFacts, local_facts
from ...machines.gpu_tools import devices, offered
from ...models.backends import PermissionView
from ...models.home import Home
from ...models.offers import OfferView
from ..base import Feed

FEED = Feed(fresh=30.0, deadline=30.0, patience=15.0)
"""Asking nvidia-smi takes long, and only the free disk moves. A query waits for this machine as long as its tools may take."""

BOOT = Path("/proc/sys/kernel/random/boot_id")


def columns(facts: HostFacts) -> dict[str, list[Any]]:
    """The offer of a machine with these facts. Its disk is what is free."""
    gpus, left_out = offered(facts.gpus, facts.memory_gb)
    return {
        "backend": ["local"],
        "region": ["local"],
        "zone": [""],
        "instance_type": ["local"],
        "cpus": [facts.cpus],
        "memory_gb": [facts.memory_gb],
        "disk_gb": [facts.disk_free_gb],
        "gpu_vendor": [gpus[0].vendor if gpus else ""],
        "gpu_name": [gpus[0].name if gpus else ""],
        "gpu_count": [len(gpus)],
        "gpu_memory_gb": [gpus[0].memory_gb if gpus else 0.0],
        "devices": [devices(gpus)],
        "cpu_arch": [facts.arch],
        "spot": [False],
        "price": [0.0],
        "availability": ["available"],
        "reason": ["; ".join([*left_out, *facts.notes])],
        "source": ["host"],
        "price_date": [""],
    }


def _right(name: str, there: bool, hint: str) -> PermissionView:
    status: Literal["granted", "missing"] = "granted" if there else "missing"
    return PermissionView(backend="local", permission=name, purpose="jobs", status=status, hint="" if there else hint)


class LocalBackend:
    """``backends.base.Backend`` for the machine that the engine runs on."""

    feed = FEED

    def account(self) -> str:
        """The machine's name, for several may share a home, and its boot, for a container's machine may differ under one name."""
        try:
            boot = BOOT.read_text().strip()
        except OSError:  # not Linux
            boot = ""
        return f"{platform.node()} {boot} {Home.default().root}"

    def offers(self) -> dict[str, list[Any]]:
        return columns(local_facts(Home.default().root))

    def check(self) -> list[PermissionView]:
        root = Home.default().root
        there = next(path for path in (root, *root.parents) if path.exists())
        return [
            _right("run /bin/sh", os.access("/bin/sh", os.X_OK), "install a POSIX shell"),
            _right("write to the state folder", os.access(there, os.W_OK | os.X_OK), f"chmod u+rwx {there}"),
        ]

    def create_instance(self, identity: str, offer: OfferView) -> dict[str, Any]:
        """The machine is there already."""
        return {}

    def terminate_instance(self, identity: str, data: dict[str, Any]) -> None:
        """The machine is the user's: only our job ends, which it has."""
