"""Extracts tar archives that others made: a machine that ran somebody's code, or a client.

tarfile's own ``data`` filter has been got around by chains of links more than once, so links have rules of our own on top:
nothing is written through a link of this archive, what stood in an entry's place goes first, and no link stays that leads out.
"""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from .models.errors import ConfigurationError, LimitExceeded

MOST_FILES = 100_000
NOT_HERE = frozenset(
    {errno.ENAMETOOLONG, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENOENT, errno.ENOTEMPTY}
)
"""What a file system says of names and kinds that it cannot have."""


def extract(tar: tarfile.TarFile, to: Path, *, modes: bool = False, keep: Callable[[Path], bool] = lambda _: False) -> list[Path]:
    """Extract below ``to``, which is made if needed; returns the files written, those of the same name are replaced. Blocks.

    ``modes``: files get the very modes of the archive (a client's own files), not those that are safe to have from a stranger.
    ``keep`` is asked of each file that would be replaced. Times of files are whole seconds: an editor's are not.

    Raises ConfigurationError for an entry that would leave ``to``, through its name, a link or a device, and for an archive that
    is damaged; LimitExceeded; OSError for a disk that is full.
    """
    to.mkdir(parents=True, exist_ok=True)
    root = to.resolve()
    written: list[Path] = []
    links: set[Path] = set()
    try:
        for member in tar:
            if len(written) >= MOST_FILES:
                raise LimitExceeded(f"more than {MOST_FILES} files: take a smaller folder, or an archive of it")
            if member.isreg() and keep(to / member.name.lstrip("/")):
                continue
            member.mtime = int(member.mtime)
            _make_way(root, member, links)
            tar.extract(member, root, filter=_with_modes if modes else "data")
            if not member.isdir():
                written.append(to / member.name.lstrip("/"))
    except tarfile.FilterError as error:
        raise ConfigurationError(f"the archive holds something that is not safe to write here: {error}") from error
    except tarfile.TarError as error:
        raise ConfigurationError(f"the archive did not arrive whole: {error}", hint="try again") from error
    except (ValueError, OverflowError, KeyError) as error:
        raise ConfigurationError(f"the archive has a name or a number that cannot be: {error}") from error
    except OSError as error:
        if error.errno in NOT_HERE:
            raise ConfigurationError(f"the archive's entries do not fit into one another here: {error}") from error
        raise
    finally:
        _drop_leading_out(root, links)
    return written


def _with_modes(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
    safe = tarfile.data_filter(member, path)
    return safe.replace(mode=member.mode & 0o777, deep=False) if safe.isreg() else safe


def _make_way(root: Path, member: tarfile.TarInfo, links: set[Path]) -> None:
    """Refuse an entry that goes through a link, and take away what stands in its place. Notes the links of this stream."""
    parts = Path(member.name.lstrip("/")).parts
    if not parts and member.isdir():
        return  # the folder itself
    if not parts or ".." in parts:
        raise ConfigurationError(f"{member.name!r} is not safe to write: it is not below {root}")
    path = root
    for part in parts[:-1]:
        path = path / part
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise ConfigurationError(f"{path} is a link that leads out of {root}: nothing was written through it")
        if path in links:
            raise ConfigurationError(f"{path} is a link of the same archive: it is not safe to write through it")
    final = root.joinpath(*parts)
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        # A link would be written through, and a file that has another name outside would change there too.
        final.unlink()
    if member.issym() or member.islnk():
        links.add(final)


def _drop_leading_out(root: Path, links: set[Path]) -> None:
    """Links are judged again at the end: what they lead through may have come after them."""
    for path in links:
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(root):
            path.unlink()
