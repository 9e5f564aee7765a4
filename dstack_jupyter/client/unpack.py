"""Writes what ``pull`` receives. The stream comes from a machine that ran somebody's code: it is not trusted."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import IO

from .. import archives
from ..models.errors import ConfigurationError


def unpack(stream: IO[bytes], to: Path) -> list[Path]:
    """Extract a tar stream below ``to``; returns the files written. Raises as ``archives.extract``."""
    to.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            return archives.extract(tar, to)
    except tarfile.TarError as error:
        raise ConfigurationError(f"the run's files did not arrive whole: {error}", hint="pull again") from error
