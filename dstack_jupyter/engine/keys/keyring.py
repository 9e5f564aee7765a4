"""The keys of the store in the operating system's keyring instead of a file: where ``DSTACK_JUPYTER_KEY_FILE`` says ``keyring``.

Never by itself: a server that starts without a desktop session finds no keyring, and a store without its key is lost. Once there,
a mark in ``keys/`` says so, whatever the variable says later.
"""

from __future__ import annotations

import os
from typing import Any

from ...models.errors import ConfigurationError
from ...models.home import Home, write_private
from .vault import ENV_KEY_FILE, DataKey, FileKeys, KeyStore, dump_keys, parse_keys

KEYRING = "keyring"
SERVICE = "dstack_jupyter"
NOT_REAL = ("keyring.backends.fail", "keyring.backends.null", "keyring.backends.chainer", "keyrings.alt")
"""Backends that keep nothing, or keep it in clear text."""
INSTALL = f'pip install "dstack-jupyter[keyring]"; without a keyring leave {ENV_KEY_FILE} unset: a 0600 file keeps the key then'


def key_store(home: Home) -> KeyStore:
    """Where this home's keys are. Looks at no keyring yet."""
    named = os.environ.get(ENV_KEY_FILE)
    if named == KEYRING or (not named and _mark(home).exists()):
        return KeyringKeys(home)
    return FileKeys.of(home)


def _mark(home: Home) -> Any:
    return home.keys / "in-keyring"


class KeyringKeys:
    """One entry of the keyring, named after the installation, in the form of the file. Raises ConfigurationError."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._name = home.installation()

    @property
    def place(self) -> str:
        return f"the operating system's keyring ({SERVICE}, {self._name})"

    def _ask(self, verb: str, *more: str) -> Any:
        try:
            import keyring
            from keyring.errors import KeyringError
        except ImportError:
            raise ConfigurationError("the store's keys belong into a keyring, and its library is missing", hint=INSTALL) from None
        chosen = keyring.get_keyring()
        backends = [each for each in getattr(chosen, "backends", [chosen]) if not type(each).__module__.startswith(NOT_REAL)]
        if not backends:
            raise ConfigurationError("there is no keyring here that keeps a secret", hint=INSTALL)
        try:
            return getattr(backends[0], verb)(SERVICE, self._name, *more)
        except KeyringError as error:
            hint = "unlock it (log in to the desktop), then try again"
            raise ConfigurationError(f"the keyring does not answer: {type(error).__name__}", hint=hint) from None

    def load(self) -> list[DataKey]:
        """What is still in the file is taken over first; the file goes when the keyring has it."""
        text = self._ask("get_password")
        file = FileKeys(self._home.keys / "store.json")
        if text is None and (keys := file.load()):
            self.replace(keys)
            text = self._ask("get_password")
        if text is None:
            return []
        parsed = parse_keys(text, self.place)
        if file.path.exists() and {key.id for key in file.load()} <= {key.id for key in parsed}:
            file.path.unlink()
        return parsed

    def create(self, key: DataKey) -> None:
        """One engine of a home at a time opens its store: it holds the lock."""
        if self._ask("get_password") is None:
            self.replace([key])

    def replace(self, keys: list[DataKey]) -> None:
        write_private(_mark(self._home), b"")
        self._ask("set_password", dump_keys(keys).decode())
