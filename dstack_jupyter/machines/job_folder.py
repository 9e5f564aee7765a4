"""The job folder: the files that a launcher writes and a reader finds, the same on every machine.

``job.sh`` beside this module says what each file means. Nothing here starts a process.
"""

from __future__ import annotations

import os
import re
import secrets
import tarfile
from functools import cache
from pathlib import Path

from .. import archives
from ..models.errors import ConfigurationError, NotFound
from .base import Archive, DroppedReason, Ending, JobSpec
from .shells import command_line, quote

ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@cache
def supervisor_script() -> str:
    """The text of job.sh. It is handed over as an argument, so replacing the package never changes a running job."""
    return Path(__file__).with_name("job.sh").read_text()


def env_script(env: dict[str, str]) -> str:
    """The export lines that the supervisor sources for the job."""
    for name in env:
        if not ENV_NAME.fullmatch(name):
            raise ConfigurationError(
                f"{name!r} cannot be the name of an environment variable",
                hint="letters, digits and _ only, not beginning with a digit",
            )
    return "".join(f"export {name}={quote(value)}\n" for name, value in env.items())


def commands_file(spec: JobSpec, prepare: str = "") -> str:
    """What the supervisor sources to have the words of the job's command as its own: in sh, reading a file costs a process.

    ``prepare`` runs first, in the same shell. Raises ConfigurationError for text that no process can be given.
    """
    words, interactive = command_line(spec, prepare)
    return f"set -- {' '.join(map(quote, words))}\n" + ("interactive=1\n" if interactive else "")


def at_home(path: str, env: dict[str, str]) -> Path:
    """A path of a configuration; ``~`` is the job's home."""
    home = env.get("HOME")
    return Path(home) / path[2:] if home and (path == "~" or path.startswith("~/")) else Path(path).expanduser()


def working_folder(folder: Path, working_dir: str, env: dict[str, str]) -> Path:
    """Where the job runs: an absolute ``working_dir`` as it is, ``~`` at home, a relative one inside the job's own ``work``."""
    return folder / "work" / at_home(working_dir, env)


def write(folder: Path, spec: JobSpec) -> None:
    """Fill ``folder`` for ``spec``; repeating it after a crash half-way is fine. Blocks. Raises ConfigurationError, OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    root = folder / "work"
    root.mkdir(mode=0o700, exist_ok=True)
    for archive in spec.archives:
        unpack(archive, root, spec.env)
    work = working_folder(folder, spec.working_dir, spec.env)
    if not spec.working_dir.startswith(("/", "~")):
        if not work.resolve().is_relative_to(root.resolve()):
            raise ConfigurationError(
                f"working_dir {spec.working_dir!r} leaves the job's folder", hint="give an absolute path for that"
            )
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not work.is_dir():
        raise ConfigurationError(f"working_dir {spec.working_dir} is not a folder on the machine")
    env = {**spec.env, "DSTACK_WORKING_DIR": str(work)}
    for name, text in (("env.sh", env_script(env)), ("commands", commands_file(spec, spec.prepare))):
        # Replaced whole: a supervisor that another launch has started may be reading it this moment.
        temporary = folder / f".{name}.{secrets.token_hex(4)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        os.replace(temporary, folder / name)


def unpack(archive: Archive, root: Path, env: dict[str, str]) -> None:
    """Unpack an uploaded archive below ``root`` (or at an absolute destination). Raises ConfigurationError."""
    dest = at_home(archive.dest, env)
    target = dest if dest.is_absolute() else root / dest
    try:
        with tarfile.open(archive.path, mode="r:") as tar:
            archives.extract(tar, target, modes=True)
    except tarfile.TarError as error:
        raise ConfigurationError(f"an uploaded archive cannot be unpacked: {error}") from error


def read_ending(folder: Path) -> Ending | None:
    """How the job of this folder ended; None while it has not. Blocks briefly."""
    try:
        code, cause = (folder / "exit").read_text().split()[:2]
    except FileNotFoundError:
        return None
    dropped, why = 0, ""
    try:
        count, _, rest = (folder / "dropped").read_text().partition("\n")[0].partition(" ")
        dropped, why = int(count or 0), rest.strip()
    except FileNotFoundError:
        pass
    return Ending(int(code), "" if cause == "-" else cause, dropped, DroppedReason.read(why))


def inside(folder: Path, path: str) -> Path:
    """``path`` below the job's ``work`` folder. Raises NotFound with what is there, ConfigurationError if it leaves it."""
    root = (folder / "work").resolve()
    target = (root / path).resolve()
    if not target.is_relative_to(root):
        raise ConfigurationError(f"{path!r} is outside the job's working folder")
    if not target.exists():
        try:
            there = sorted(entry.name for entry in target.parent.iterdir())[:12]
        except OSError:
            there = []
        raise NotFound(f"the run left no {path!r}", hint=f"there is: {', '.join(there)}" if there else "the folder is empty")
    return target
