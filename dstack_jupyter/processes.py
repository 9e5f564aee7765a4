"""Starts processes that outlive us: a session of their own, none of our descriptors, no ignored signals."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping


def spawn_detached(command: list[str], env: Mapping[str, str]) -> int:
    """The pid of a child that needs nothing of us any more. ``command[0]`` is an absolute path. Raises OSError.

    It stays our child: somebody must call ``ended`` now and then, or it is a zombie once it has ended.
    """
    return os.posix_spawn(
        command[0],
        command,
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT),  # Python ignores the first two; a child must not
    )


def ended(pid: int) -> int | None:
    """The exit code of a child of ours that has ended (collected by this call), None while it runs.

    -1 for one that was collected before.
    """
    try:
        child, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return -1
    return os.waitstatus_to_exitcode(status) if child else None
