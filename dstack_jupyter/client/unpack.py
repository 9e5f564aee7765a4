"""Writes what ``pull`` receives. The stream comes from a machine that ran somebody's code: it is not trusted."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import IO

from ..models.errors import ConfigurationError, LimitExceeded

MOST_FILES = 100_000


def unpack(stream: IO[bytes], to: Path) -> list[Path]:
    """Extract a tar stream below ``to``; returns the files written. Existing files of the same name are replaced.

    Raises ConfigurationError for an entry that would leave ``to``, through its name, a link or a device; LimitExceeded.
    """
    to.mkdir(parents=True, exist_ok=True)
    root = to.resolve()
    written: list[Path] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                if len(written) >= MOST_FILES:
                    raise LimitExceeded(f"more than {MOST_FILES} files: pull a smaller folder, or an archive of it")
                _refuse_link_on_the_way(root, member.name)
                tar.extract(member, root, filter="data")
                if not member.isdir():
                    written.append(to / member.name)
    except tarfile.FilterError as error:
        raise ConfigurationError(f"the run's files hold something that is not safe to write here: {error}") from error
    except tarfile.TarError as error:
        raise ConfigurationError(f"the run's files did not arrive whole: {error}", hint="pull again") from error
    return written


def _refuse_link_on_the_way(root: Path, name: str) -> None:
    """A link that stood here before, or came in this very stream, must not carry a later entry elsewhere."""
    path = root
    for part in Path(name).parts[:-1]:
        path = path / part
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise ConfigurationError(f"{path} is a link that leads out of {root}: nothing was written through it")
    final = root / name
    if final.is_symlink():
        os.unlink(final)
