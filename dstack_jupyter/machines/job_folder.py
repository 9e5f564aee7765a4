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

ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@cache
def supervisor_script() -> str:
    """The text of job.sh. It is handed over as an argument, so replacing the package never changes a running job."""
    return Path(__file__).with_name("job.sh").read_text()


def quote(value: str) -> str:
    """``value`` as one word of POSIX sh, byte for byte. Raises ConfigurationError for NUL, which no environment can hold."""
    if "\0" in value:
        raise ConfigurationError("a NUL character cannot be handed to a process")
    return "'" + value.replace("'", "'\\''") + "'"


def env_script(env: dict[str, str]) -> str:
    """The export lines that the supervisor sources for the job."""
    for name in env:
        if not ENV_NAME.fullmatch(name):
            raise ConfigurationError(
                f"{name!r} cannot be the name of an environment variable",
                hint="letters, digits and _ only, not beginning with a digit",
            )
    return "".join(f"export {name}={quote(value)}\n" for name, value in env.items())


def command_script(commands: list[str]) -> str:
    """All commands as one script for ``SHELL -c``: the next one runs only if the one before ended with 0.

    Braces with a line of their own, not ``&&``: a command may end in a comment or hold a here-document.
    """
    return "\n".join("{ " + command + "\n} || exit $?" for command in commands)


def commands_file(script: str) -> str:
    """What the supervisor sources to have ``script`` as its ``$1``: to read a file in sh, a process would have to be started."""
    return f"set -- {quote(script)}\n"


def working_folder(folder: Path, working_dir: str) -> Path:
    """Where the job runs: an absolute ``working_dir`` as it is, a relative one inside the job's own ``work``."""
    return folder / "work" / working_dir if not os.path.isabs(working_dir) else Path(working_dir)


def write(folder: Path, spec: JobSpec) -> None:
    """Fill ``folder`` for ``spec``; repeating it after a crash half-way is fine. Blocks. Raises ConfigurationError, OSError."""
    folder.mkdir(mode=0o700, exist_ok=True)
    root = folder / "work"
    root.mkdir(mode=0o700, exist_ok=True)
    for archive in spec.archives:
        unpack(archive, root)
    work = working_folder(folder, spec.working_dir)
    if not os.path.isabs(spec.working_dir):
        if not work.resolve().is_relative_to(root.resolve()):
            raise ConfigurationError(
                f"working_dir {spec.working_dir!r} leaves the job's folder", hint="give an absolute path for that"
            )
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not work.is_dir():
        raise ConfigurationError(f"working_dir {spec.working_dir} is not a folder on the machine")
    env = {**spec.env, "DSTACK_WORKING_DIR": str(work)}
    for name, text in (("env.sh", env_script(env)), ("commands", commands_file(command_script(spec.commands)))):
        # Replaced whole: a supervisor that another launch has started may be reading it this moment.
        temporary = folder / f".{name}.{secrets.token_hex(4)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        os.replace(temporary, folder / name)


def unpack(archive: Archive, root: Path) -> None:
    """Unpack an uploaded archive below ``root`` (or at an absolute destination). Raises ConfigurationError."""
    dest = Path(archive.dest).expanduser()
    target = dest if dest.is_absolute() else root / dest
    try:
        with tarfile.open(archive.path, mode="r:") as tar:
            archives.extract(tar, target)
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
