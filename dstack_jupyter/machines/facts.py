"""What this machine is: cores, memory, disk and GPUs. Parsers are pure functions of a tool's output or of a folder.

Called by the backend `local` in the engine's thread pool; blocks up to some seconds where a vendor's tool hangs.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .gpu_tools import GB, TOOLS, GPUFacts, read_tool

TOOL_TIMEOUT = 5.0
"""Seconds that a vendor's tool may take: one without a working driver can hang."""


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


def run_tool(*command: str, timeout: float = TOOL_TIMEOUT) -> tuple[str, int, str]:
    """(output of a vendor's tool, its exit code, why it could not be asked). Empty where the tool is not installed.

    Its errors are its output only where it has no other: warnings stand there beside a good answer.
    """
    if shutil.which(command[0]) is None:
        return "", 0, ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return "", 0, f"{command[0]} did not answer in {timeout:g} s"
    except OSError as error:
        return "", 0, f"{command[0]} cannot be run: {error.strerror}"
    return done.stdout if done.stdout.strip() else done.stderr, done.returncode, ""


def gpus_of_tools() -> tuple[list[GPUFacts], list[str]]:
    """(GPUs that the installed tools report, NVIDIA's first; notes on tools that failed and cards that do not answer)."""
    gpus: list[GPUFacts] = []
    notes: list[str] = []
    for name in ("nvidia-smi", "amd-smi", "rocm-smi"):
        if name == "rocm-smi" and any(gpu.vendor == "amd" for gpu in gpus):
            continue
        output, code, note = run_tool(name, *TOOLS[name][1])
        cards, complaints = read_tool(name, output, code) if not note else ([], [note])
        gpus += cards
        notes += complaints
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
