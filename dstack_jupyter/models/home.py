"""Where our state lives on disk, and how files get there: 0700 folders, files 0600 from their first byte.

``~/.dstack/jupyter`` unless ``DSTACK_JUPYTER_HOME`` names another folder. dstack's own files beside it are only read.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import ConfigurationError

ENV_HOME = "DSTACK_JUPYTER_HOME"


def write_private(path: Path, data: bytes) -> None:
    """Replace ``path`` with ``data`` at once, 0600 from the first byte whatever the umask; readers see old or new, never half."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def private_folder(path: Path) -> Path:
    """Make ``path`` (0700) if needed. Raises ConfigurationError where it belongs to somebody else."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ConfigurationError(f"{path} is not a folder of yours", hint=f"remove it, or name another folder in {ENV_HOME}")
    if status.st_mode & 0o077:
        path.chmod(0o700)
    return path


@dataclass(frozen=True, slots=True)
class Home:
    """The state folder. Cheap to make; folders appear when first asked for."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        named = os.environ.get(ENV_HOME)
        root = Path(named).expanduser() if named else Path.home() / ".dstack" / "jupyter"
        return cls(Path(os.path.abspath(root)))

    def create(self) -> Home:
        private_folder(self.root)
        return self

    @property
    def store(self) -> Path:
        return self.root / "store.db"

    @property
    def database(self) -> Path:
        """Holds the URL of a shared PostgreSQL database, where one is used instead of ``store``."""
        return self.root / "database"

    @property
    def lock(self) -> Path:
        return self.root / "engine.lock"

    @property
    def endpoint(self) -> Path:
        return self.root / "endpoint.json"

    @property
    def engine_log(self) -> Path:
        return self.root / "engine.log"

    @property
    def jobs(self) -> Path:
        """Job folders of runs on this machine."""
        return private_folder(self.create().root / "jobs")

    @property
    def code(self) -> Path:
        """Uploaded archives, by content."""
        return private_folder(self.create().root / "code")

    @property
    def cache(self) -> Path:
        return private_folder(self.create().root / "cache")

    @property
    def keys(self) -> Path:
        """Our own SSH keys."""
        return private_folder(self.create().root / "keys")

    @property
    def host_keys(self) -> Path:
        """Private keys that those may name who may not name any file of this machine."""
        return private_folder(self.keys / "hosts")

    @property
    def ssh_config(self) -> Path:
        """An ssh config of our own, with an entry for each run that can be logged in to."""
        return private_folder(self.create().root / "ssh") / "config"

    def installation(self) -> str:
        """This installation's id, 16 hexadecimal digits, made once; part of the identity of everything we create."""
        path = self.create().root / "installation"
        if not path.exists():
            fresh = path.with_name(f".installation.{secrets.token_hex(4)}")
            write_private(fresh, secrets.token_hex(8).encode())
            try:
                os.link(fresh, path)  # fails where another process was first, and never shows a half-written file
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return path.read_text().strip()

    def runtime_folder(self) -> Path:
        """A short 0700 folder for the socket: a socket's path has 107 bytes at most, a home's can be longer."""
        mark = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        base = os.environ.get("XDG_RUNTIME_DIR", "")
        candidates = [Path(base)] if base and os.path.isdir(base) and os.access(base, os.W_OK) else []
        candidates.append(Path(tempfile.gettempdir()))
        candidates.append(Path("/tmp"))  # noqa: S108 - its folder is ours and 0700, or refused
        for candidate in candidates:
            folder = candidate / f"dj-{os.getuid()}-{mark}"
            if len(os.fsencode(folder)) <= 80:
                return private_folder(folder)
        raise ConfigurationError(
            "no folder is short enough for a unix socket", hint="set XDG_RUNTIME_DIR to a short folder of yours"
        )
