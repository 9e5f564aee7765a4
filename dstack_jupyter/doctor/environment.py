"""The Python that we run in, what is installed there, and whether Jupyter loads our extension."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from .._version import __version__
from ..models.findings import Finding, finding

PACKAGE = "dstack-jupyter"
EXTENSION = "dstack_jupyter_server"
SQLITE = (3, 35)
"""The first with RETURNING."""


def python() -> Finding:
    version = f"Python {sys.version.split()[0]}, dstack_jupyter {__version__}, SQLite {sqlite3.sqlite_version}"
    if sys.platform == "win32":
        return finding("python", False, f"{version} on Windows", "use WSL2")
    if sqlite3.sqlite_version_info < SQLITE:
        return finding("python", False, f"{version}: SQLite is too old", "use a newer Python, or one of conda-forge")
    return finding("python", True, f"{version} at {sys.prefix}")


def packages() -> list[Finding]:
    """What our own package asks for against what is there."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in metadata.requires(PACKAGE) or ()]
        installed = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return [finding("packages", False, f"{PACKAGE} is not installed in {sys.prefix}", f'pip install "{PACKAGE}"')]
    findings = []
    wanted = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    if installed != __version__:
        hint = "restart the kernel and the Jupyter server"
        findings.append(finding("packages", False, f"{PACKAGE} {installed} is installed, {__version__} is loaded", hint))
    for each in wanted:
        version = _version(each.name)
        if version is None or not each.specifier.contains(version, prereleases=True):
            hint = f'pip install "{each.name}{each.specifier}"'
            findings.append(
                finding("packages", False, f"{each.name} {version or 'is missing'}, {each.specifier} is needed", hint)
            )
    return findings or [finding("packages", True, f"{len(wanted)} requirements are met")]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def extension() -> Finding:
    """Whether a Jupyter server that starts here would load us."""
    try:
        from jupyter_core.paths import jupyter_config_path
    except ImportError:
        return finding("extension", None, "there is no Jupyter in this environment; the engine runs in a process of its own")
    hint = f"jupyter server extension enable {EXTENSION}"
    for folder in map(Path, jupyter_config_path()):
        for path in _configurations(folder):
            enabled = _enabled(path)
            if enabled is False:
                return finding("extension", False, f"{EXTENSION} is disabled in {path}", hint)
            if enabled:
                return finding("extension", True, f"{EXTENSION} is enabled in {path}")
    return finding("extension", False, f"no Jupyter server of {sys.prefix} loads {EXTENSION}", hint)


def _configurations(folder: Path) -> Iterator[Path]:
    """The files of one folder, the one that wins first, as Jupyter reads them."""
    yield folder / "jupyter_server_config.json"
    yield from sorted((folder / "jupyter_server_config.d").glob("*.json"), reverse=True)


def _enabled(path: Path) -> bool | None:
    try:
        read: Any = json.loads(path.read_text())
        enabled = read["ServerApp"]["jpserver_extensions"][EXTENSION]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return bool(enabled)
