"""All backends by name. Nothing of a vendor is imported until its backend is used (D11)."""

from __future__ import annotations

import difflib
import importlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from ..models.errors import BackendNotAvailable, NotFound

if TYPE_CHECKING:
    from .base import Backend

Kind = Literal["vm", "container", "on-prem", "local", "marketplace"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A backend in one line. ``module`` is ``package.module:Class``, '' for a backend that is not built yet.

    ``extra`` is the pip extra that it needs, ``config`` the model of its entry in config.yml, '' where it has none. ``by_file``:
    without an entry in config.yml its module could do nothing, so the module is not even imported. ``listed`` is false for
    types of newer releases of dstack: their entries are read, and shown only where there is one.
    """

    title: str
    kind: Kind
    module: str = ""
    extra: str = ""
    by_file: bool = False
    config: str = ""
    listed: bool = True


HERE = "dstack_jupyter.backends"


def _vm(title: str, config: str, cloud: str = "", extra: str = "", kind: Kind = "vm", *, listed: bool = True) -> Entry:
    """A vendor: ``config`` and ``cloud`` are ``folder.module:Class`` of this package."""
    return Entry(title, kind, f"{HERE}.{cloud}" if cloud else "", extra, bool(cloud), f"{HERE}.{config}", listed)


# A vendor is a folder and a line.
TABLE: dict[str, Entry] = {
    "local": Entry("This machine", "local", f"{HERE}.local.compute:LocalBackend", config=f"{HERE}.local.config:LocalConfig"),
    "ssh": Entry("SSH fleets", "on-prem", f"{HERE}.ssh.compute:SSHBackend"),
    "aws": _vm("AWS", "aws.config:AWSConfig", extra="aws"),
    "azure": _vm("Azure", "azure.config:AzureConfig", extra="azure"),
    "gcp": _vm("GCP", "gcp.config:GCPConfig", extra="gcp"),
    "lambda": _vm("Lambda", "lambda_.config:LambdaConfig"),
    "nebius": _vm("Nebius", "nebius.config:NebiusConfig", extra="nebius"),
    "vultr": _vm("Vultr", "vultr.config:VultrConfig"),
    "cudo": _vm("CUDO", "cudo.config:CUDOConfig"),
    "oci": _vm("OCI", "oci.config:OCIConfig", extra="oci"),
    "datacrunch": _vm("DataCrunch (Verda)", "datacrunch.config:DataCrunchConfig"),
    "amddevcloud": _vm("AMD Developer Cloud", "amddevcloud.config:AMDDevCloudConfig", "amddevcloud.cloud:AMDDevCloud"),
    "digitalocean": _vm("DigitalOcean", "digitalocean.config:DigitalOceanConfig", "digitalocean.cloud:DigitalOcean"),
    "hotaisle": _vm("Hot Aisle", "hotaisle.config:HotAisleConfig"),
    "cloudrift": _vm("CloudRift", "cloudrift.config:CloudRiftConfig"),
    "kubernetes": _vm("Kubernetes", "kubernetes.config:KubernetesConfig", extra="kubernetes", kind="container"),
    "runpod": _vm("RunPod", "runpod.config:RunPodConfig", kind="container"),
    "vastai": _vm("Vast.ai", "vastai.config:VastAIConfig", kind="container"),
    "crusoe": _vm("crusoe", "crusoe.config:CrusoeConfig", listed=False),
    "jarvislabs": _vm("jarvislabs", "jarvislabs.config:JarvisLabsConfig", listed=False),
    "lium": _vm("lium", "lium.config:LiumConfig", listed=False),
    "daytona": _vm("daytona", "daytona.config:DaytonaConfig", listed=False),
    "seeweb": _vm("seeweb", "seeweb.config:SeewebConfig", listed=False),
    "slurm": _vm("slurm", "slurm.config:SlurmConfig", listed=False),
    "tensordock": _vm("tensordock", "tensordock.config:TensorDockConfig", listed=False),
    "dstack": _vm("dstack Sky", "dstack.config:DstackConfig", kind="marketplace"),
}
ALIASES = {"verda": "datacrunch"}
"""A second name of a backend, which newer releases of dstack use."""
CONFIGS = {
    name: entry.config
    for proper, entry in TABLE.items()
    if entry.config
    for name in (proper, *(alias for alias, of in ALIASES.items() if of == proper))
}
"""Every ``type`` that an entry of config.yml may have, and its model."""
_entries = {name: entry for name, entry in TABLE.items() if entry.listed}
_loaded: dict[str, Backend] = {}
_loading = threading.RLock()
"""Queries load backends in several threads at once; each backend is made once."""

entries: Mapping[str, Entry] = MappingProxyType(_entries)
"""The backends that every list shows, by their proper names."""


def proper(name: str) -> str:
    """The one name of a backend that the eras of dstack name differently."""
    return ALIASES.get(name, name)


def built() -> str:
    """The backends that this version has, for a sentence."""
    *names, last = [name for name, each in _entries.items() if each.module]
    return f"{', '.join(names)} and {last}"


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
    known = proper(name)
    if known not in _entries:
        near = difflib.get_close_matches(name, [*_entries, *ALIASES], 2)
        raise NotFound(
            f"there is no backend {name!r}",
            hint=f"did you mean {' or '.join(near)}?" if near else f"backends: {', '.join(_entries)}",
        )
    return known, _entries[known]


def load(name: str) -> Backend:
    """The backend, imported on first use. Raises NotFound, BackendNotAvailable (not built, or its extra is not installed)."""
    known, listed = entry(name)
    if not listed.module:
        raise BackendNotAvailable(f"{listed.title} is not available yet", hint=f"this version runs on {built()}")
    with _loading:
        if known not in _loaded:
            _loaded[known] = _make(listed)
        return _loaded[known]


def _make(listed: Entry) -> Backend:
    module, _, attribute = listed.module.partition(":")
    try:
        backend: Backend = getattr(importlib.import_module(module), attribute)()
    except ModuleNotFoundError as error:
        hint = f'pip install "dstack-jupyter[{listed.extra}]"' if listed.extra else ""
        raise BackendNotAvailable(f"{listed.title} needs {error.name}, which is not installed", hint=hint) from error
    return backend
