"""All backends by name. Nothing of a vendor is imported until its backend is used (D11)."""

from __future__ import annotations

import difflib
import importlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..models.errors import BackendNotAvailable, NotFound
from .base import Backend

Kind = Literal["vm", "container", "on-prem", "local", "marketplace"]


@dataclass(frozen=True, slots=True)
class Entry:
    """``module`` is ``package.module:Class``, '' for a backend that is not built yet; ``extra`` the pip extra it needs.

    ``by_file``: without an entry in config.yml there is nothing that its module could do, so it is not even imported.
    """

    title: str
    kind: Kind
    module: str = ""
    extra: str = ""
    by_file: bool = False


_entries: dict[str, Entry] = {
    "local": Entry("This machine", "local", "dstack_jupyter.backends.local.compute:LocalBackend"),
    "ssh": Entry("SSH fleets", "on-prem", "dstack_jupyter.backends.ssh.compute:SSHBackend"),
    "aws": Entry("AWS", "vm", extra="aws"),
    "azure": Entry("Azure", "vm", extra="azure"),
    "gcp": Entry("GCP", "vm", extra="gcp"),
    "lambda": Entry("Lambda", "vm"),
    "nebius": Entry("Nebius", "vm", extra="nebius"),
    "vultr": Entry("Vultr", "vm"),
    "cudo": Entry("CUDO", "vm"),
    "oci": Entry("OCI", "vm", extra="oci"),
    "datacrunch": Entry("DataCrunch (Verda)", "vm"),
    "amddevcloud": Entry("AMD Developer Cloud", "vm", "dstack_jupyter.backends.amddevcloud.cloud:AMDDevCloud", by_file=True),
    "digitalocean": Entry("DigitalOcean", "vm", "dstack_jupyter.backends.digitalocean.cloud:DigitalOcean", by_file=True),
    "hotaisle": Entry("Hot Aisle", "vm"),
    "cloudrift": Entry("CloudRift", "vm"),
    "kubernetes": Entry("Kubernetes", "container", extra="kubernetes"),
    "runpod": Entry("RunPod", "container"),
    "vastai": Entry("Vast.ai", "container"),
    "dstack": Entry("dstack Sky", "marketplace"),
}
ALIASES = {"verda": "datacrunch"}
_loaded: dict[str, Backend] = {}
_loading = threading.RLock()
"""Queries load backends in several threads at once; each backend is made once."""

entries: Mapping[str, Entry] = MappingProxyType(_entries)


def register(name: str, entry: Entry) -> None:
    """Add a backend of one's own, before an engine starts. For programs that embed us, and for tests."""
    with _loading:
        _entries[name] = entry
        _loaded.pop(name, None)


def unregister(name: str) -> None:
    """Take back a ``register``; a name that is not there is fine."""
    with _loading:
        _entries.pop(name, None)
        _loaded.pop(name, None)


def entry(name: str) -> tuple[str, Entry]:
    """(its proper name, its entry). Raises NotFound with near names."""
    proper = ALIASES.get(name, name)
    if proper not in _entries:
        near = difflib.get_close_matches(name, [*_entries, *ALIASES], 2)
        raise NotFound(
            f"there is no backend {name!r}",
            hint=f"did you mean {' or '.join(near)}?" if near else f"backends: {', '.join(_entries)}",
        )
    return proper, _entries[proper]


def load(name: str) -> Backend:
    """The backend, imported on first use. Raises NotFound, BackendNotAvailable (not built, or its extra is not installed)."""
    proper, found = entry(name)
    if not found.module:
        raise BackendNotAvailable(f"{found.title} is not available yet", hint="this version runs on `local` and SSH fleets")
    with _loading:
        if proper not in _loaded:
            _loaded[proper] = _make(found)
        return _loaded[proper]


def _make(found: Entry) -> Backend:
    module, _, attribute = found.module.partition(":")
    try:
        backend: Backend = getattr(importlib.import_module(module), attribute)()
    except ModuleNotFoundError as error:
        hint = f'pip install "dstack-jupyter[{found.extra}]"' if found.extra else ""
        raise BackendNotAvailable(f"{found.title} needs {error.name}, which is not installed", hint=hint) from error
    return backend
