"""Uploaded code: files of the home by content. A shared store has a copy, so that any engine can launch."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.dialects.postgresql import insert

from ...models.errors import ConfigurationError
from ...models.home import Home
from ..store.columns import now
from ..store.database import Database
from ..store.schema import code_chunks

PIECE = 1 << 20
"""Bytes of one row."""
INSERT = (
    insert(code_chunks)
    .values(at=now(), **{name: bindparam(name) for name in ("sha256", "number", "data")})
    .on_conflict_do_nothing()  # two engines may be given the same archive at once
)
CHUNK = select(code_chunks.c.data).where(code_chunks.c.sha256 == bindparam("sha256"), code_chunks.c.number == bindparam("number"))


class Archives:
    """The archives of this engine, on its loop."""

    def __init__(self, database: Database, home: Home) -> None:
        self._database = database
        self._home = home

    def path(self, sha256: str) -> Path:
        """Where an archive is, or will be after ``fetch``."""
        return self._home.code / f"{sha256}.tar"

    async def has(self, sha256: str) -> bool:
        if self._database.shared:
            return await self._database.read(_chunk, sha256, 0) is not None
        return await asyncio.to_thread(self.path(sha256).exists)

    async def put(self, sha256: str, temporary: Path) -> None:
        """Take over an uploaded file whose hash the caller has checked. Same file system: the move is atomic."""
        await asyncio.to_thread(os.replace, temporary, self.path(sha256))
        if self._database.shared:
            await self._database.write_aside(_put, sha256, self.path(sha256))

    async def fetch(self, wanted: Iterable[str]) -> None:
        """See that these archives are files here. Raises ConfigurationError for one that nobody has."""
        for sha256 in wanted:
            if not self._database.shared or await asyncio.to_thread(self.path(sha256).exists):
                continue
            fresh = self._home.code / f".fetch-{secrets.token_hex(8)}"
            digest, number = hashlib.sha256(), 0
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    while (data := await self._database.read_aside(_chunk, sha256, number)) is not None:
                        digest.update(data)
                        await asyncio.to_thread(file.write, data)
                        number += 1
                if digest.hexdigest() != sha256:
                    raise ConfigurationError("the code of this run is no longer in the store", hint="apply it again")
                os.replace(fresh, self.path(sha256))
            finally:
                fresh.unlink(missing_ok=True)


def _chunk(connection: Connection, sha256: str, number: int) -> bytes | None:
    chunk: Any = connection.execute(CHUNK, {"sha256": sha256, "number": number}).scalar()
    return None if chunk is None else bytes(chunk)


def _put(connection: Connection, sha256: str, path: Path) -> None:
    """Store all of a file or nothing. An existing file is stored again, since it may be about to be removed."""
    connection.execute(delete(code_chunks).where(code_chunks.c.sha256 == sha256))
    with path.open("rb") as file:
        number = 0
        while (data := file.read(PIECE)) or not number:
            connection.execute(INSERT, {"sha256": sha256, "number": number, "data": data})
            number += 1


def forget(connection: Connection, needed: Iterable[str], keep: float) -> None:
    """Remove shared archives that are older than ``keep`` seconds and not ``needed``."""
    old = (code_chunks.c.at < now() - keep) & code_chunks.c.sha256.not_in(list(needed))
    connection.execute(delete(code_chunks).where(old))
