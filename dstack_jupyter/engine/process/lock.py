"""One engine per home: an OS lock on ``engine.lock`` that the kernel frees when its holder dies, however it dies.

A holder that is stopped (SIGSTOP, a debugger, a loop that hangs) keeps the lock and does nothing. So a holder counts in the lock
file, and who waits looks whether it does. No clock is read for that: what counts is how often somebody awake has looked, so that
a suspended laptop or a set clock takes nothing from anybody. Who takes over puts a locked file of its own in the place of the
old one; the old holder finds that when it wakes, and its writes are refused by the store meanwhile (``store/fence.py``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path

from ...models.errors import ConfigurationError
from ...models.home import ENV_HOME, Home

MOUNTS = Path("/proc/mounts")
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "lustre", "fuse.sshfs", "glusterfs"})


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that holds ``path``, from the text of /proc/mounts; '' if it is not told."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), fields[2]
    return kind


def refuse_network_home(home: Home) -> None:
    """Raises ConfigurationError for a home on a network file system: neither its locks nor SQLite are safe there."""
    try:
        mounts = MOUNTS.read_text()
    except OSError:
        return
    kind = file_system(home.create().root.resolve(), mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"{home.root} is on a network file system ({kind}): the state needs a local disk",
            hint=f"set {ENV_HOME} to a folder on a local disk, for instance /var/tmp/dstack-jupyter-$USER",
        )


STILL = 5
"""Looks in a row, ``LOOK`` seconds apart, that must find the holder's count unchanged before somebody takes over."""
LOOK = 2.0
"""Seconds between two counts of a holder, and between two looks of who waits."""


class Lease:
    """Held from ``acquire`` or ``take_over`` to ``release``, or to the end of the process. Any thread, one at a time."""

    def __init__(self, home: Home) -> None:
        self._path = home.create().lock
        self._descriptor = -1
        self._count = 0
        self._life = ""
        self._seen = b""
        self._unchanged = 0
        self.moving = False
        """Whether the holder was seen counting."""
        self.displaced = 0
        """The process that we took over from, 0 if none: it may stand still in the middle of a change."""

    def acquire(self) -> bool:
        """Take it if it is free; never waits."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            self._descriptor = descriptor
            if self._in_place():
                break
            os.close(descriptor)  # somebody took over since we opened it: that file is nobody's lock any more
        os.ftruncate(descriptor, 0)
        self._begin()
        return True

    def _begin(self) -> None:
        self._count = self._unchanged = 0
        self._life = secrets.token_hex(4)
        self._seen = b""
        self._write()

    def _write(self) -> None:
        os.pwrite(self._descriptor, f"{os.getpid()} {self._life} {self._count:020d}\n".encode(), 0)

    def _in_place(self) -> bool:
        """Whether the file that we hold is still the one that others look at."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self._path))
        except FileNotFoundError:
            return False

    def beat(self) -> bool:
        """Count, so that nobody takes us for stopped. False: somebody did, and has taken over. Called every ``LOOK`` seconds."""
        if not self._in_place():
            return False
        self._count += 1
        with contextlib.suppress(OSError):
            # A full disk: then others see us stand still, and the store decides between us.
            self._write()
        return True

    def _moved(self) -> bool:
        """Whether the holder has counted since our last look; true at the first look."""
        try:
            count = self._path.read_bytes()
        except OSError:
            count = b""
        before, self._seen = self._seen, count
        return count != before

    def stands_still(self) -> bool:
        """Look once. True when ``STILL`` looks in a row found the holder as it was. Called every ``LOOK`` seconds."""
        first = not self._seen
        if self._moved():
            self.moving = self.moving or not first
            self._unchanged = 0
        else:
            self._unchanged += 1
        return self._unchanged >= STILL

    def take_over(self) -> bool:
        """Put a lock of ours in the place of one whose holder stands still. False if it moved or another was faster."""
        guard = os.open(self._path.with_suffix(".takeover"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            seen = self._seen
            if self._moved():
                self._unchanged = 0
                return False
            fresh = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
            descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._descriptor = descriptor
            self._begin()
            os.replace(fresh, self._path)
            self.displaced = int(seen.split()[0]) if seen.split() else 0
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(guard)

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
