"""One engine per home: an OS lock on ``engine.lock`` that the kernel frees when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ..models.errors import ConfigurationError
from ..models.home import ENV_HOME, Home

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
        mounts = Path("/proc/mounts").read_text()
    except OSError:
        return
    kind = file_system(home.create().root.resolve(), mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"{home.root} is on a network file system ({kind}): the state needs a local disk",
            hint=f"set {ENV_HOME} to a folder on a local disk, for instance /var/tmp/dstack-jupyter-$USER",
        )


class Lease:
    """Held from ``acquire`` to ``release``, or to the end of the process. Any thread."""

    def __init__(self, home: Home) -> None:
        self._path = home.create().lock
        self._descriptor = -1

    def acquire(self) -> bool:
        """Take it if it is free; never waits."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())  # for whoever looks; the lock itself is what counts
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
