"""Our own SSH keys: one of the installation in ``keys/``, and those of runs, which are derived and stored nowhere."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ...models.home import Home, write_private


@dataclass(frozen=True, slots=True)
class KeyPair:
    """``private`` in OpenSSH's form, ``public`` as ``<algorithm> <base64>``."""

    private: str
    public: str


def _pair(seed: bytes) -> KeyPair:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return KeyPair(private, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode())


class Keys:
    """Cheap to make; files appear when first asked for. Blocks briefly.

    ``seed`` (32 bytes, sealed in the store) is the same for all engines of a store. ``shared``: those have one key to log in
    with, too, derived from it.
    """

    def __init__(self, home: Home, seed: bytes, *, shared: bool = False) -> None:
        self._home = home
        self._seed = seed
        self._shared = shared

    @property
    def file(self) -> Path:
        """The private key that we log in with where no other is named, made on first use, 0600; its ``.pub`` beside it."""
        path = self._home.keys / ("id_ed25519_shared" if self._shared else "id_ed25519")
        if not path.exists():
            pair = _pair(self._derived("installation") if self._shared else secrets.token_bytes(32))
            fresh = path.with_name(f".id.{secrets.token_hex(4)}")
            write_private(fresh, pair.private.encode())
            try:
                os.link(fresh, path)  # fails where another process was first
                write_private(path.with_name(f"{path.name}.pub"), f"{pair.public} dstack_jupyter\n".encode())
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return path

    @property
    def public(self) -> str:
        file = self.file
        return file.with_name(f"{file.name}.pub").read_text().strip()

    def of_run(self, run_id: str, use: str) -> KeyPair:
        """A key of a run for one use (``nodes``, ``host-0``): the same whenever it is asked for, by any engine of the store."""
        return _pair(self._derived(f"{run_id} {use}"))

    def _derived(self, use: str) -> bytes:
        return hmac.new(self._seed, use.encode(), hashlib.sha256).digest()
