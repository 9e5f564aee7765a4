"""The config.yml of this user as it is now: looked at on each use, read anew when it has changed, never written here."""

from __future__ import annotations

import stat
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...models.errors import BackendNotAvailable, ConfigurationError, DstackJupyterError, Problem

if TYPE_CHECKING:
    from .base import BackendConfig
    from .file import ServerConfig

State = tuple[int, int, int, int]


def config_path() -> Path:
    """The place where dstack users keep config.yml."""
    return Path.home() / ".dstack" / "server" / "config.yml"


class Configured:
    """Safe on any thread. A file that is absent configures nothing; one that cannot be read is one problem."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._state: State | None = None
        self._config: ServerConfig | None = None

    def current(self) -> ServerConfig:
        """What the file says now. Blocks for one stat, and for reading after a change. Raises nothing."""
        config = self._now()
        if config is None:
            from .file import ServerConfig

            return ServerConfig()
        return config

    def _now(self) -> ServerConfig | None:
        """None without a file: most commands of a user who has none need none of the models of all backends."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        state = (status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns)
        with self._lock:
            if self._config is None or state != self._state:
                self._config, self._state = self._read(), state
            return self._config

    def _read(self) -> ServerConfig:
        from .file import ServerConfig, load_config

        try:
            return load_config(self.path)
        except ConfigurationError as error:
            return ServerConfig(problems=error.problems or [Problem(error.message, error.hint, "", str(self.path))])
        except DstackJupyterError as error:
            return ServerConfig(problems=[Problem(error.message, error.hint, "", str(self.path))])

    def backends(self, project: str = "main") -> Mapping[str, BackendConfig]:
        """The backends of a project that are configured rightly, by name."""
        config = self._now()
        return config.backends.get(_project(config, project), {}) if config is not None else {}

    def faults(self, project: str = "main") -> Mapping[str, Problem]:
        """The first fault of each backend that is configured wrongly, by name."""
        config = self._now()
        return config.faulty.get(_project(config, project), {}) if config is not None else {}

    def warnings(self) -> list[str]:
        """Standing warnings about the file itself."""
        try:
            mode = stat.S_IMODE(self.path.stat().st_mode)
        except OSError:
            return []
        if mode & 0o077:
            return [f"others can read {self.path}, which holds keys in clear text: `%dstack doctor --fix` (chmod 600) mends it"]
        return []


def _project(config: ServerConfig, name: str) -> str:
    """The project of the file that ``name`` means. ``main`` also means the file's only project, whatever its name."""
    projects = config.backends
    return next(iter(projects)) if name == "main" and name not in projects and len(projects) == 1 else name


_configured: dict[Path, Configured] = {}


def configured() -> Configured:
    """This user's configuration; one object for a path."""
    path = config_path()
    return _configured.setdefault(path, Configured(path))


def entry_of(name: str, project: str = "main") -> BackendConfig:
    """The entry of a backend. Raises BackendNotAvailable where there is none, ConfigurationError for a faulty one."""
    known = configured()
    entry = known.backends(project).get(name)
    if entry is not None:
        return entry
    fault = known.faults(project).get(name)
    if fault is not None:
        raise ConfigurationError(str(fault), hint="mend it there; `%dstack check` tells all faults")
    raise BackendNotAvailable(f"{name} is not configured", hint=f"`%dstack configure {name}`")
