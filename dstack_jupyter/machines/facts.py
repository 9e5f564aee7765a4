"""What this machine is: cores, memory, disk and GPUs. Parsers are pure functions of a tool's output or of a folder.

Called by the backend `local` in the engine's thread pool; blocks up to some seconds where a vendor's tool hangs.
"""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..models.gpus import short_name, sold_memory

GB = 1024**3
TOOL_TIMEOUT = 5.0
"""Seconds that a vendor's tool may take: one without a working driver can hang."""
DISPLAY_ONLY = 1.0
"""GB: a GPU with less memory is the processor's own, for the screen."""


@dataclass(frozen=True, slots=True)
class GPUFacts:
    vendor: Literal["nvidia", "amd", "intel", "tenstorrent"]
    name: str
    memory_gb: float
    """0 where the tool does not say (memory shared with the processor)."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """``cpus`` is what a process may use (affinity and control groups), memory and disk are GB of 1024³ bytes.

    ``gpus`` stand in the order in which their vendor's tool counts them. ``notes`` say which tool failed, and how.
    """

    cpus: float
    memory_gb: float
    disk_gb: float
    disk_free_gb: float
    arch: Literal["x86", "arm"]
    gpus: tuple[GPUFacts, ...] = ()
    notes: tuple[str, ...] = ()


def parse_nvidia_smi(text: str) -> list[GPUFacts]:
    """Output of ``nvidia-smi --query-gpu=name,memory.total --format=csv,noheader,nounits`` (MiB)."""
    gpus = []
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        if len(row) == 2:
            name, reported = short_name(row[0]), row[1].strip()
            memory = sold_memory(name, int(reported) / 1024) if reported.isdigit() else 0.0
            gpus.append(GPUFacts("nvidia", name, memory))
    return gpus


def parse_utilization(text: str) -> list[int]:
    """Output of ``nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits``: percent, one GPU a line."""
    return [int(line) for line in text.split() if line.isdigit()]


def parse_amd_smi(text: str) -> list[GPUFacts]:
    """Output of ``amd-smi static --asic --vram --json``: a list of GPUs, which newer versions put under ``gpu_data``.

    Raises ValueError for anything else.
    """
    data: Any = json.loads(text)
    cards = data.get("gpu_data") if isinstance(data, dict) else data
    if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
        raise ValueError("expected a list of GPUs")
    gpus = []
    for card in cards:
        product = str(_inner(card, "asic", "market_name") or "AMD GPU")
        size = _inner(card, "vram", "size")
        megabytes = str(size.get("value") if isinstance(size, dict) else size).removesuffix("MB").strip()
        gpus += _amd(product, int(megabytes) / 1024 if megabytes.isdigit() else 0.0)
    return gpus


def parse_rocm_smi(text: str) -> list[GPUFacts]:
    """Output of ``rocm-smi --showproductname --showmeminfo vram --json``: bytes as text, one object a card.

    Raises ValueError, TypeError for anything else.
    """
    data: Any = json.loads(text)
    if not isinstance(data, dict):
        raise TypeError("expected an object of cards")
    gpus = []
    numbered = [(int(name[4:]), card) for name, card in data.items() if re.fullmatch(r"card\d+", name)]
    for _, card in sorted(numbered, key=lambda item: item[0]):
        total = str(_inner(card, "VRAM Total Memory (B)"))
        product = _inner(card, "Card Series") or _inner(card, "Card series") or "AMD GPU"
        gpus += _amd(str(product), int(total) / GB if total.isdigit() else 0.0)
    return gpus


def parse_hl_smi(text: str) -> list[GPUFacts]:
    """Output of ``hl-smi -Q index,name,memory.total -f csv,noheader``: ``0, HL-225, 98304 MiB`` a line (Intel Gaudi)."""
    gpus = []
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        if len(row) == 3 and row[0].strip().isdigit():
            name = GAUDI.get(row[1].strip().upper()[:5], "Gaudi")
            size = row[2].strip().removesuffix("MiB").strip()
            gpus.append(GPUFacts("intel", name, sold_memory(name, int(size) / 1024) if size.isdigit() else 0.0))
    return gpus


GAUDI = {"HL-20": "Gaudi", "HL-22": "Gaudi2", "HL-32": "Gaudi3", "HL-33": "Gaudi3"}
"""Board names of hl-smi (HL-205, HL-225, HL-325L) by their first five letters."""
TENSTORRENT = {"n150": 12.0, "n300": 24.0, "p100": 28.0, "p150": 32.0, "p300": 64.0}
"""GB of each board: tt-smi does not report memory."""


def parse_tt_smi(text: str) -> list[GPUFacts]:
    """Output of ``tt-smi -s``: JSON whose ``device_info`` has one entry a chip; an n300's second chip is part of the first.

    Raises ValueError, TypeError for anything else.
    """
    data: Any = json.loads(text[text.find("{") :])
    devices = _inner(data, "device_info")
    if not isinstance(devices, list):
        raise TypeError("expected device_info")
    gpus = []
    for device in devices:
        words = str(_inner(device, "board_info", "board_type") or "").lower().split()
        if words and not (len(words) > 1 and words[1] == "r"):
            gpus.append(GPUFacts("tenstorrent", words[0], TENSTORRENT.get(words[0].rstrip("abc"), 0.0)))
    return gpus


def _inner(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _amd(product: str, memory_gb: float) -> list[GPUFacts]:
    name = short_name(product)
    return [GPUFacts("amd", name, sold_memory(name, memory_gb))] if memory_gb >= DISPLAY_ONLY else []


def _groups(root: Path, membership: str, controller: str) -> Iterator[Path]:
    """The control group folders that bound a process, innermost first. ``membership`` is its ``/proc/self/cgroup``."""
    for line in membership.splitlines():
        number, controllers, inner = [*line.split(":", 2), "", ""][:3]
        base = root if number == "0" else root / controller
        if number == "0" or controller in controllers.split(","):
            folder = base / inner.strip("/")
            yield from (each for each in (folder, *folder.parents) if each.is_relative_to(base))


def _numbers(path: Path) -> list[int]:
    """The whole numbers of a limit's file; empty where it is absent, or says that there is no limit."""
    try:
        return [int(word) for word in path.read_text().split()]
    except (OSError, ValueError):
        return []


def cpu_limit(root: Path, membership: str) -> float:
    """Cores that the control groups (v2 or v1) below ``root`` allow; infinite where they set no limit."""
    limits = [float("inf")]
    for folder in _groups(root, membership, "cpu"):
        quota = _numbers(folder / "cpu.max") or _numbers(folder / "cpu.cfs_quota_us") + _numbers(folder / "cpu.cfs_period_us")
        if len(quota) == 2 and quota[0] > 0 and quota[1] > 0:
            limits.append(quota[0] / quota[1])
    return min(limits)


def memory_limit(root: Path, membership: str) -> float:
    """Bytes that the control groups (v2 or v1) below ``root`` allow; infinite where they set no limit."""
    limits = [float("inf")]
    for folder in _groups(root, membership, "memory"):
        limits += _numbers(folder / "memory.max") + _numbers(folder / "memory.limit_in_bytes")
    return min(limits)


def run_tool(*command: str, timeout: float = TOOL_TIMEOUT) -> tuple[str, str]:
    """(output of a vendor's tool, why there is none). Both are '' where the tool is not installed."""
    if shutil.which(command[0]) is None:
        return "", ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return "", f"{command[0]} did not answer in {timeout:g} s"
    except OSError as error:
        return "", f"{command[0]} cannot be run: {error.strerror}"
    if done.returncode:
        complaint = (done.stderr.strip() or done.stdout.strip()).partition("\n")[0][:200]
        return "", f"{command[0]} failed with exit code {done.returncode}: {complaint}"
    return done.stdout, ""


def gpus_of_tools() -> tuple[list[GPUFacts], list[str]]:
    """(GPUs that the installed tools report, NVIDIA's first; notes on tools that failed)."""
    gpus: list[GPUFacts] = []
    notes: list[str] = []

    def ask(parse: Callable[[str], list[GPUFacts]], *command: str) -> bool:
        output, note = run_tool(*command)
        try:
            cards = parse(output) if output else []
        except (TypeError, ValueError):
            cards, note = [], f"{command[0]} answered in a form that is not known"
        gpus.extend(cards)
        notes.extend([note] if note else [])
        return bool(cards)

    ask(parse_nvidia_smi, "nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
    if not ask(parse_amd_smi, "amd-smi", "static", "--asic", "--vram", "--json"):
        ask(parse_rocm_smi, "rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json")
    return gpus, notes


def local_facts(folder: Path) -> HostFacts:
    """Facts of this machine; ``folder`` is where jobs write. Raises nothing."""
    root = Path("/sys/fs/cgroup")
    try:
        membership = Path("/proc/self/cgroup").read_text()
    except OSError:  # not Linux
        membership = ""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    disk = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists()))
    gpus, notes = gpus_of_tools()
    return HostFacts(
        cpus=round(min(cores, cpu_limit(root, membership)), 2),
        memory_gb=round(min(memory, memory_limit(root, membership)) / GB, 1),
        disk_gb=round(disk.total / GB, 1),
        disk_free_gb=round(disk.free / GB, 1),
        arch="arm" if platform.machine().lower() in ("aarch64", "arm64") else "x86",
        gpus=tuple(gpus),
        notes=tuple(notes),
    )
