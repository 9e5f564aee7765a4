"""Writes the files that ``pull`` receives. The stream comes from a machine that ran somebody's code: it is not trusted."""

from __future__ import annotations

import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from .. import archives
from ..models.errors import ConfigurationError


class Pulled(list[Path]):
    """The files that were written. ``kept`` are those of yours that were not replaced."""

    def __init__(self, written: Iterable[Path] = (), kept: Iterable[Path] = ()) -> None:
        super().__init__(written)
        self.kept = list(kept)


def unpack(stream: IO[bytes], to: Path, *, edited_since: float | None = None) -> Pulled:
    """Extract a tar stream below ``to``. Raises as ``archives.extract``.

    Files that somebody edited after ``edited_since`` (Unix time) are kept; None keeps none.
    """
    kept: list[Path] = []

    def keep(path: Path) -> bool:
        if edited_since is not None and _edited(path, edited_since):
            kept.append(path)
        return path in kept

    to.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            return Pulled(archives.extract(tar, to, keep=keep), kept)
    except tarfile.TarError as error:
        raise ConfigurationError(f"the run's files did not arrive whole: {error}", hint="pull again") from error


def _edited(path: Path, since: float) -> bool:
    """Whether an editor wrote a file after ``since``. A file that an earlier pull wrote has a time of whole seconds."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_mtime > since and status.st_mtime_ns % 1_000_000_000 != 0
