"""Seals what the store must not show: AES-256-GCM under a random key that lies outside the database (D10).

A sealed text is ``v1.<key id>.<base64 of nonce and ciphertext>``. The name of the column is authenticated with it: a value that
was moved to another column does not open. Several keys may be known: the first one seals, all of them open; so a rotation
can be interrupted anywhere. A key seals 2³² values at most (random nonces); rotate long before.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ...models.errors import ConfigurationError
from ...models.home import Home, write_private

MARK = "v1"
NONCE = 12
ENV_KEY_FILE = "DSTACK_JUPYTER_KEY_FILE"
"""Names the file of the keys, where several engines share a store and so need the same keys."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """``id`` stands in each value that it sealed; ``made`` in seconds since the epoch, by this machine's clock."""

    id: str
    secret: bytes
    made: float

    @classmethod
    def fresh(cls) -> DataKey:
        return cls(secrets.token_hex(4), secrets.token_bytes(32), time.time())

    def __repr__(self) -> str:
        return f"DataKey({self.id!r})"


class KeyStore(Protocol):
    """Where data keys are kept. Called on the store's thread or a worker thread; blocks briefly."""

    @property
    def place(self) -> str:
        """In words, for messages."""

    def load(self) -> list[DataKey]:
        """The keys, the sealing one first; empty if none was made. Raises ConfigurationError."""

    def create(self, key: DataKey) -> None:
        """Keep the first key, unless another process was first: ``load`` then gives its key."""

    def replace(self, keys: list[DataKey]) -> None:
        """Keep exactly these, at once: a crash leaves the old ones or the new ones."""


class FileKeys:
    """A 0600 file. Raises ConfigurationError for one that others can read or that is damaged; it is never made anew then."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, home: Home) -> FileKeys:
        named = os.environ.get(ENV_KEY_FILE)
        return cls(Path(named).expanduser() if named else home.keys / "store.json")

    @property
    def place(self) -> str:
        return str(self.path)

    def load(self) -> list[DataKey]:
        try:
            mode = self.path.stat().st_mode
            text = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigurationError(f"the keys of the store cannot be read: {error}") from error
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigurationError(
                f"others can read {self.path}, which opens the store", hint=f"`%dstack doctor --fix`, or chmod 600 {self.path}"
            )
        return parse_keys(text, self.place)

    def create(self, key: DataKey) -> None:
        fresh = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}")
        write_private(fresh, dump_keys([key]))
        try:
            os.link(fresh, self.path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()

    def replace(self, keys: list[DataKey]) -> None:
        write_private(self.path, dump_keys(keys))


def dump_keys(keys: list[DataKey]) -> bytes:
    entries = [{"id": key.id, "secret": base64.b64encode(key.secret).decode(), "made": key.made} for key in keys]
    return json.dumps({"keys": entries}).encode()


def parse_keys(text: bytes | str, place: str) -> list[DataKey]:
    """Raises ConfigurationError that shows nothing of the text."""
    try:
        keys = [
            DataKey(str(each["id"]), base64.b64decode(each["secret"], validate=True), float(each["made"]))
            for each in json.loads(text)["keys"]
        ]
        if not keys or any(len(key.secret) != 32 for key in keys):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{place} does not hold keys of the store", hint="put it back from a copy") from None
    return keys


class Vault:
    """Cheap to make; reads its keys when first needed. Any thread."""

    def __init__(self, keys: KeyStore) -> None:
        self._store = keys
        self._lock = threading.Lock()
        self._keys: list[DataKey] = []
        self._ciphers: dict[str, AESGCM] = {}

    @property
    def place(self) -> str:
        return self._store.place

    def load(self, *, create: bool = False) -> list[DataKey]:
        """The keys as they are now; the first one is made where ``create`` allows it. Raises ConfigurationError."""
        with self._lock:
            keys = self._store.load()
            if not keys and create:
                self._store.create(DataKey.fresh())
                keys = self._store.load()
            self._take(keys)
            return list(keys)

    def _take(self, keys: list[DataKey]) -> None:
        self._ciphers = {key.id: AESGCM(key.secret) for key in keys}
        self._keys = list(keys)

    @property
    def sealing(self) -> str:
        """The id of the key that seals. Raises ConfigurationError where there is none."""
        if not (self._keys or self.load()):
            raise ConfigurationError(f"there is no key of the store in {self.place}", hint=HINT.format(place=self.place))
        return self._keys[0].id

    def seal(self, text: str, column: str) -> str:
        key = self.sealing
        nonce = os.urandom(NONCE)
        sealed = self._ciphers[key].encrypt(nonce, text.encode("utf-8", "surrogatepass"), column.encode())
        return f"{MARK}.{key}.{base64.b64encode(nonce + sealed).decode()}"

    def open(self, sealed: str, column: str) -> str:
        """The text. Raises ConfigurationError for a key that is not here, or a value that was changed."""
        mark, _, rest = sealed.partition(".")
        key, _, body = rest.partition(".")
        cipher = self._ciphers.get(key)
        if cipher is None:
            self.load()  # another engine may have rotated, or the file was put there meanwhile
            cipher = self._ciphers.get(key)
        if mark != MARK or cipher is None:
            raise ConfigurationError(
                f"the store is sealed with the key {key[:8]!r}, which is not in {self.place}", hint=HINT.format(place=self.place)
            )
        data = base64.b64decode(body)
        try:
            return cipher.decrypt(data[:NONCE], data[NONCE:], column.encode()).decode("utf-8", "surrogatepass")
        except InvalidTag:
            raise ConfigurationError(
                f"a value of {column} does not open with the key {key}: it was changed outside, or the key was",
                hint="put the store and its keys back from the same copy",
            ) from None

    def begin_rotation(self, *, go_on: bool) -> str:
        """A fresh key seals from now on, the one of before still opens. Returns its id.

        ``go_on``: where there is more than one key, the first one is the fresh one of a rotation that was cut off.
        """
        with self._lock:
            keys = self._store.load()
            if len(keys) < 2 or not go_on:
                keys = [DataKey.fresh(), *keys[:1]]
                self._store.replace(keys)
            self._take(keys)
            return keys[0].id

    def end_rotation(self) -> list[str]:
        """Forget every key but the sealing one. Called when nothing is sealed with them any more. Returns their ids."""
        with self._lock:
            keys = self._store.load()
            self._store.replace(keys[:1])
            self._take(keys[:1])
            return [key.id for key in keys[1:]]


HINT = "copy it from where the store was made (0600) to {place}; without it the sealed values are lost"
