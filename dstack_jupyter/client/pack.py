"""Packs the code of a run: files, and folders with their uncommitted changes and ignore rules, as deterministic tar files.

The same content gives the same archive, so that it is uploaded once.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pathspec

from ..models.configurations import AnyRun
from ..models.errors import ConfigurationError, LimitExceeded, NotFound

LARGEST = 1 << 30
"""Bytes of one archive at most (docs/decisions.md, details)."""
IGNORE_FILES = (".gitignore", ".dstackignore")


@dataclass(frozen=True, slots=True)
class Packed:
    """An archive in a temporary file (the caller deletes it) and where it is unpacked."""

    path: Path
    sha256: str
    dest: str
    files: int
    size: int


def pack_task(task: AnyRun, base: Path) -> list[Packed]:
    """The archives of a task's ``repos`` and ``files``; relative paths begin at ``base``, the caller's folder.

    Raises NotFound, ConfigurationError, LimitExceeded.
    """
    archives = []
    for repo in task.repos:
        if repo.local_path is not None:
            archives.append(pack(repo.local_path, repo.path, base, ignore=True))
    for mapping in task.files:
        archives.append(pack(mapping.local_path, mapping.path, base, ignore=False))
    return archives


def pack(local_path: str, dest: str | None, base: Path, *, ignore: bool) -> Packed:
    """One file or folder. Without ``dest`` the path stays as it was written (``landing``).

    ``ignore``: leave out what git, ``.gitignore`` or ``.dstackignore`` leave out.
    """
    source = (base / Path(local_path).expanduser()).absolute()
    if not source.exists():
        raise _missing(local_path, source)
    source = source.resolve()
    dest = landing(local_path) if dest is None else dest
    if source.is_dir():
        names: Iterator[PurePosixPath] = _chosen(source) if ignore else _everything(source)
        entries = [(source / name, str(name)) for name in sorted(names)]
        return _write(source, entries, dest)
    return _write(source, [(source, os.path.basename(dest))], os.path.dirname(dest) or ".")


def landing(local_path: str) -> str:
    """Where a path without a target lands: as dstack has it, at the same path without its ``..``; ``~`` is the job's home."""
    if local_path.startswith(("/", "~")):
        return local_path
    parts = [part for part in PurePosixPath(local_path).parts if part not in ("..", ".")]
    return "/".join(parts) or "."


def _missing(local_path: str, source: Path) -> NotFound:
    try:
        names = [entry.name for entry in source.parent.iterdir()]
    except OSError:
        names = []
    near = difflib.get_close_matches(source.name, names, 3)
    hint = f"did you mean {', '.join(near)}?" if near else f"paths begin at {source.parent}"
    return NotFound(f"there is no file or folder {local_path!r} to send with the run", hint=hint)


def _everything(folder: Path) -> Iterator[PurePosixPath]:
    """Files, links and empty folders."""
    for root, folders, files in os.walk(folder):
        relative = Path(root).relative_to(folder)
        folders[:] = sorted(name for name in folders if name != ".git")
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        for name in [*files, *links]:
            yield PurePosixPath(relative / name)
        if not files and not folders and root != str(folder):
            yield PurePosixPath(relative)


def _chosen(folder: Path) -> Iterator[PurePosixPath]:
    """What a person would call the project: tracked and new files, without what is ignored."""
    tracked = _of_git(folder)
    names = _everything(folder) if tracked is None else iter(tracked)
    rules = IGNORE_FILES if tracked is None else IGNORE_FILES[1:]
    specs = _ignore_rules(folder, rules)
    for name in names:
        if not any(spec.match_file(name.relative_to(root)) for root, spec in specs if name.is_relative_to(root)):
            yield name


def _of_git(folder: Path) -> list[PurePosixPath] | None:
    """What git knows or would add, and empty folders; None where this is no work tree or there is no git.

    A submodule and a clone inside the work tree are folders here: what their own git says of them is sent.
    """
    try:
        known = _ls_files(folder, "--cached", "--others")
        folders = _ls_files(folder, "--others", "--directory")
    except (OSError, subprocess.SubprocessError):
        return None
    names: set[PurePosixPath] = set()
    for name in known:
        path = folder / name
        if path.is_symlink() or path.is_file():
            names.add(name)
        elif path.is_dir():
            inner = _of_git(path) if (path / ".git").exists() else None
            names |= {name / each for each in (list(_everything(path)) if inner is None else inner)}
        elif os.path.lexists(path):
            names.add(name)  # neither file nor folder: refused by name
        # Else it was deleted and is still in the index.
    return [*names, *(name for name in folders if _is_empty(folder / name))]


def _ls_files(folder: Path, *options: str) -> set[PurePosixPath]:
    command = ["git", "-C", str(folder), "ls-files", "-z", "--exclude-standard", *options]
    output = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    return {PurePosixPath(os.fsdecode(name)) for name in output.split(b"\0") if name}


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _ignore_rules(folder: Path, names: tuple[str, ...]) -> list[tuple[PurePosixPath, pathspec.GitIgnoreSpec]]:
    paths = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != ".git"]
        for name in names:
            if name in files:
                lines = (Path(root) / name).read_text(errors="replace").splitlines()
                spec = pathspec.GitIgnoreSpec.from_lines(lines)
                paths.append((PurePosixPath(Path(root).relative_to(folder)), spec))
    return paths


def _write(source: Path, entries: list[tuple[Path, str]], dest: str) -> Packed:
    _check_size(source, entries)
    descriptor, name = tempfile.mkstemp(prefix="dstack-jupyter-", suffix=".tar")
    try:
        with os.fdopen(descriptor, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for path, arcname in entries:
                    _add(tar, path, arcname, source)
            size = file.tell()
        if size > LARGEST:
            raise _too_large(source, entries, size)
        with open(name, "rb") as written:
            digest = hashlib.file_digest(written, "sha256").hexdigest()
    except BaseException:
        os.unlink(name)
        raise
    return Packed(Path(name), digest, dest, len(entries), size)


def _add(tar: tarfile.TarFile, path: Path, arcname: str, source: Path) -> None:
    """One entry, with nothing of this machine or user in it but content, kind, mode and time."""
    info = tar.gettarinfo(path, arcname)
    if info is None or not (info.isreg() or info.issym() or info.isdir()):
        raise ConfigurationError(f"{path} is neither a file nor a link: it cannot be sent", hint="add it to .dstackignore")
    if info.issym() and not path.resolve().is_relative_to(source if source.is_dir() else source.parent):
        raise ConfigurationError(
            f"the link {path} leads out of {source}", hint="send its target under `files`, or add it to .dstackignore"
        )
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = int(info.mtime)
    info.mode = stat.S_IMODE(info.mode) & 0o777
    info.pax_headers = {}
    if info.isreg():
        with path.open("rb") as file:
            tar.addfile(info, file)
    else:
        tar.addfile(info)


def _check_size(source: Path, entries: list[tuple[Path, str]]) -> None:
    total = sum(path.lstat().st_size for path, _ in entries)
    if total > LARGEST:
        raise _too_large(source, entries, total)


def _too_large(source: Path, entries: list[tuple[Path, str]], total: int) -> LimitExceeded:
    weights: dict[str, int] = {}
    for path, arcname in entries:
        top = arcname.split("/")[0]
        weights[top] = weights.get(top, 0) + path.lstat().st_size
    heavy = sorted(weights, key=lambda name: -weights[name])[:3]
    listed = ", ".join(f"{name} ({weights[name] / 2**20:.0f} MiB)" for name in heavy)
    return LimitExceeded(
        f"{source} has {total / 2**30:.2f} GiB; 1 GiB can be sent with a run",
        hint=f"largest: {listed}; leave data out with .dstackignore and load it in the job",
    )
