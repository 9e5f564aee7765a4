"""Who hosts the engine of a home: told from its files and from the system's own tables, so also of one that does not answer."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from .._version import __version__
from ..engine.process.lock import LOOK, STILL
from ..models.durations import format_duration
from ..models.endpoint import Endpoint
from ..models.engine import EngineInfo
from ..models.findings import Finding, finding
from ..models.home import Home

SILENT = STILL * LOOK
"""Seconds without a word after which a waiting server takes the engine's place."""


def lock_holder(home: Home, locks: Path = Path("/proc/locks")) -> int:
    """The process that holds the home's lock; 0 if nobody does or it cannot be told. Takes no lock itself."""
    try:
        status = home.lock.stat()
        lines = locks.read_text().splitlines()
    except OSError:
        return 0
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in lines:
        fields = line.split()
        if "->" not in fields and file in fields and fields[1] == "FLOCK":
            return int(fields[4])
    return 0


def stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal or a debugger."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] in ("T", "t")
    except OSError:
        return False


def silence(home: Home) -> float:
    """Seconds since the holder of the home's lock last counted there (every ``lease.LOOK`` s); 0 if it cannot be told."""
    try:
        return max(0.0, time.time() - home.lock.stat().st_mtime)
    except OSError:
        return 0.0


def _written(home: Home) -> Endpoint | str | None:
    """endpoint.json as it stands: None if there is none, a sentence if it is damaged."""
    try:
        return Endpoint(**json.loads(home.endpoint.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        return f"endpoint.json cannot be read ({type(error).__name__})"


def mute(home: Home) -> list[Finding]:
    """Why the holder of the home's lock would answer nobody, while nothing can take its place; empty if it would."""
    holder = lock_holder(home)
    if holder and stopped(holder):
        return [finding("host", False, f"the engine's process {holder} is stopped: it can do nothing", f"kill -CONT {holder}")]
    if holder and (quiet := silence(home)) > SILENT:
        age = format_duration(quiet, rough=True)
        message = f"the engine's process {holder} gave its last word {age} ago: it hangs, or its disk is full"
        hint = f"`df -h {home.root}`; if there is room, end it: kill -9 {holder}; its work goes on in the next engine, jobs stay"
        return [finding("host", False, message, hint)]
    return []


def examine(home: Home) -> list[Finding]:
    """What lock and endpoint say together. An ``ok`` of None: no engine runs."""
    if reason := mute(home):
        return reason
    holder = lock_holder(home)
    written = _written(home)
    if isinstance(written, str):
        return [finding("host", False, written, f"rm {home.endpoint}: an engine writes it anew when it starts")]
    if written is None:
        if holder:
            hint = "it may be starting: look again in a few seconds; engine.log in the home says more"
            return [finding("host", False, f"process {holder} holds the home's lock and has no endpoint.json", hint)]
        return [finding("host", None, "no engine runs; the next command that needs one starts it")]
    if not holder and home.lock.exists() and Path("/proc/locks").exists():
        hint = f"rm {home.endpoint}, or let any command start an engine, which replaces it"
        return [finding("host", False, f"endpoint.json names the process {written.pid}, which is no engine any more", hint)]
    if holder and holder != written.pid:
        hint = f"if {holder} hangs, end it: kill {holder}; its work goes on elsewhere"
        return [finding("host", False, f"process {holder} holds the home's lock, endpoint.json names {written.pid}", hint)]
    if not Path(written.socket).is_socket():
        hint = f"end the process, the next command starts another: kill {written.pid}"
        return [finding("host", False, f"the engine's socket {written.socket} is gone", hint)]
    return []


def describe(home: Home, info: EngineInfo, python: str) -> list[Finding]:
    """The engine that answered. ``python`` is the interpreter that asks."""
    who = "a Jupyter server" if info.host == "server" else "a process of its own"
    age, silent = format_duration(time.time() - info.started_at, rough=True), format_duration(silence(home), rough=True)
    message = f"hosted by {who}, pid {info.pid}, for {age}, last word {silent} ago"
    findings = [finding("host", not info.problems, "; ".join([message, *info.problems]), "engine.log in the home says more")]
    same = info.version == __version__
    versions = f"engine {info.version} on {info.python}, client {__version__} on {python}"
    hint = "install the same version in both environments, then restart the Jupyter server and this kernel"
    alike = same and info.python == python
    findings.append(finding("versions", same, f"{__version__} on both sides" if alike else versions, hint))
    return findings
