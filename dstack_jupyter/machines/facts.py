"""What a machine is: cores, memory, disk and GPUs. Parsers are pure functions of a tool's output."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

GB = 1024**3
TOOL_TIMEOUT = 5.0
"""Seconds that a vendor's tool may take: one without a working driver can hang."""


@dataclass(frozen=True, slots=True)
class GPUFacts:
    vendor: Literal["nvidia", "amd"]
    name: str
    memory_gb: float


@dataclass(frozen=True, slots=True)
class HostFacts:
    """``cpus`` is what a process may use (affinity and control group), memory and disk are GB of 1024³ bytes."""

    cpus: float
    memory_gb: float
    disk_gb: float
    arch: Literal["x86", "arm"]
    gpus: tuple[GPUFacts, ...] = field(default=())


def parse_nvidia_smi(text: str) -> list[GPUFacts]:
    """Output of ``nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits`` (MiB)."""
    found = []
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        if len(row) == 2 and row[1].strip().isdigit():
            found.append(GPUFacts("nvidia", short_name(row[0]), round(int(row[1]) / 1024, 1)))
    return found


def parse_rocm_smi(text: str) -> list[GPUFacts]:
    """Output of ``rocm-smi --showproductname --showmeminfo vram --json`` (bytes as text, one object a card)."""
    try:
        cards: Any = json.loads(text)
    except ValueError:
        return []
    found = []
    for name in sorted(cards) if isinstance(cards, dict) else ():
        card = cards[name]
        total = str(card.get("VRAM Total Memory (B)", "")) if isinstance(card, dict) else ""
        if name.startswith("card") and total.isdigit():
            product = str(card.get("Card Series") or card.get("Card series") or card.get("Card SKU") or "AMD GPU")
            found.append(GPUFacts("amd", short_name(product), round(int(total) / GB, 1)))
    return found


def short_name(product: str) -> str:
    """The name that offers use: ``NVIDIA A100-SXM4-80GB`` → ``A100``, ``NVIDIA GeForce RTX 4090`` → ``RTX4090``."""
    words = product.replace("-", " ").split()
    kept = [word for word in words if word.lower() not in ("nvidia", "geforce", "tesla", "amd", "instinct", "radeon")]
    if not kept:
        return product.strip()
    if kept[0].upper() in ("RTX", "GTX", "RX", "PRO") and len(kept) > 1:
        return "".join(kept[:2])
    return kept[0]


def _tool(*command: str) -> str:
    """The output of a vendor's tool; '' where it is absent, fails or hangs."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TOOL_TIMEOUT, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _cpus() -> float:
    available = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(available, int(quota) / int(period))
    except (OSError, ValueError):  # no control group, or no limit ("max")
        return available


def _memory_gb() -> float:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        pass
    return round(total / GB, 1)


def local_facts(folder: Path) -> HostFacts:
    """Facts of this machine; ``folder`` is where jobs write. Blocks up to some seconds. Raises nothing."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    nvidia = _tool("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    gpus = parse_nvidia_smi(nvidia)
    gpus += parse_rocm_smi(_tool("rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"))
    return HostFacts(
        cpus=_cpus(),
        memory_gb=_memory_gb(),
        disk_gb=round(shutil.disk_usage(existing).free / GB, 1),
        arch="arm" if platform.machine().lower() in ("aarch64", "arm64") else "x86",
        gpus=tuple(gpus),
    )
