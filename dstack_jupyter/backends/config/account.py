"""The account's side of a backend: guides for each way to log in, permissions, policies.

Plain data in each vendor's ``account.py``: nothing of a vendor's SDK is imported, nobody is called. Facts: the backends page,
reference ``hyperscalers`` §1, ``gpu-clouds``, ``configuration`` §2.6.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from .. import registry
from .base import BackendConfig

Level = Literal["required", "feature", "improves"]


@dataclass(frozen=True, slots=True)
class Guide:
    """One way to log in, from nothing to a working entry. ``steps`` are for a person, ``commands`` for the vendor's own tool."""

    steps: tuple[str, ...]
    commands: tuple[str, ...] = ()
    tool: str = ""


def always(config: BackendConfig) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Permission:
    """One right. ``level``: without a ``required`` right nothing works, without a ``feature`` right that feature fails by name,
    without an ``improves`` right we fall back visibly. ``page`` is false for a right that the backends page lacks: a gap that
    we close.
    """

    name: str
    level: Level = "required"
    purpose: str = "machines"
    page: bool = True
    needed: Callable[[BackendConfig], bool] = always


@dataclass(frozen=True, slots=True)
class Account:
    """Everything on the account's side. ``guides`` are by ``creds.type``; ``policy`` makes the minimal policy's text.

    ``policy`` gets the configuration (None if there is none yet) and the permissions that go in. ``policy`` is None where the
    vendor's keys have no rights of their own to choose: ``no_policy`` then says what to tick.
    """

    guides: dict[str, Guide]
    permissions: tuple[Permission, ...] = ()
    policy: Callable[[BackendConfig | None, tuple[Permission, ...]], str] | None = None
    no_policy: str = "a key of this vendor has no rights to choose: whoever holds it can do everything the account can"
    more: tuple[str, ...] = field(default=())
    """What else the account needs: quotas, enabled APIs, access lists."""


def permissions(names: str, level: Level = "required", purpose: str = "machines", **more: object) -> tuple[Permission, ...]:
    """Several permissions of one kind; ``names`` are separated by white space."""
    return tuple(Permission(name, level, purpose, **more) for name in names.split())  # type: ignore[arg-type]


def account(name: str) -> Account:
    """The account's side of a backend: of a ``type`` of config.yml, or ``ssh``."""
    config = registry.CONFIGS.get(name)
    package = config.rpartition(".")[0] if config is not None else f"{registry.HERE}.{name}"
    vendor_account: Account = importlib.import_module(f"{package}.account").ACCOUNT
    return vendor_account


def account_of(name: str) -> tuple[str, Account]:
    """(its proper name, the account's side). Raises NotFound with near names."""
    if name in registry.CONFIGS and registry.proper(name) not in registry.entries:
        return name, account(name)
    proper, _ = registry.entry(name)
    return proper, account(proper)


def wanted(vendor_account: Account, config: BackendConfig | None) -> tuple[Permission, ...]:
    """The permissions that this configuration needs: all but those of features that it does not use."""
    return tuple(each for each in vendor_account.permissions if config is None or each.needed(config))
