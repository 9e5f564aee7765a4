"""Our files and folders: who can read them, whether the disk is ours and has room."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ..backends.config.configured import config_path
from ..engine.keys.keyring import KEYRING
from ..engine.keys.vault import ENV_KEY_FILE, FileKeys
from ..engine.process.lock import NETWORK_FILE_SYSTEMS, file_system
from ..models.findings import Finding, finding
from ..models.home import ENV_HOME, Home

LITTLE_SPACE = 1 << 30
PATIENCE = 2.0
"""Seconds that adding up the sizes of many files may take."""


def private(home: Home) -> Iterator[tuple[Path, int]]:
    """(path, the mode it must have at most) of everything that must be the user's alone and is there."""
    yield config_path(), 0o600
    if os.environ.get(ENV_KEY_FILE, KEYRING) != KEYRING:
        yield Path(FileKeys.of(home).place), 0o600
    if not home.root.is_dir():
        return
    yield home.root, 0o700
    for entry in sorted(home.root.iterdir()):
        if entry.is_symlink():
            continue
        yield entry, 0o700 if entry.is_dir() else 0o600
        if entry.name in ("keys", "ssh"):
            yield from ((path, 0o600) for path in sorted(entry.iterdir()) if path.is_file() and path.suffix != ".pub")


def permissions(home: Home) -> list[Finding]:
    """One finding for each path that others can use, or one that all is well."""
    findings = []
    count = 0
    for path, wanted in private(home):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        count += 1
        name = "config.yml" if path == config_path() else "permissions"
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            holds = ": it holds keys in clear text" if path == config_path() else ""
            hint = f"chmod {wanted:o} {path}, or `%dstack doctor --fix`"
            findings.append(finding(name, False, f"{path} has mode {mode:04o}, others can use it{holds}", hint))
        elif status.st_uid != os.getuid():
            findings.append(finding(name, False, f"{path} belongs to user {status.st_uid}", f"chown {os.getuid()} {path}"))
    said = f"{count} files and folders are yours alone" if count else "nothing of ours is there yet"
    return findings or [finding("permissions", True, said)]


def fix(home: Home) -> list[str]:
    """Take from others what is not theirs to use. Returns what was done."""
    done = []
    for path, wanted in private(home):
        if path.exists() and path.stat().st_mode & 0o077 and path.stat().st_uid == os.getuid():
            path.chmod(wanted)
            done.append(f"chmod {wanted:o} {path}")
    return done


def place(home: Home, mounts: Path = Path("/proc/mounts")) -> Finding:
    """Whether the home is on a local disk."""
    try:
        kind = file_system(home.root.resolve(), mounts.read_text())
    except OSError:
        return finding("home", None, f"{home.root}: its file system cannot be told here")
    if kind in NETWORK_FILE_SYSTEMS:
        hint = f"set {ENV_HOME} to a folder on a local disk, for instance /var/tmp/dstack-jupyter-$USER"
        return finding("home", False, f"{home.root} is on a network file system ({kind}): the state needs a local disk", hint)
    return finding("home", True, f"{home.root} ({kind or 'local'})")


def space(home: Home) -> Finding:
    """Free space, and what of ours takes most of it."""
    there = home.root if home.root.exists() else home.root.parent
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    sizes = {name: _size(home.root / name) for name in ("jobs", "code", "store.db")}
    largest = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in sizes.items() if size > 1 << 20)
    message = f"{free / 2**30:.1f} GB free at {there}" + (f"; {largest}" if largest else "")
    return finding("disk", free > LITTLE_SPACE, message, "free some space: what runs left behind goes seven days after their end")


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    total, deadline = 0, time.monotonic() + PATIENCE
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except OSError:
                continue  # it went away meanwhile
        if time.monotonic() > deadline:
            break
    return total
