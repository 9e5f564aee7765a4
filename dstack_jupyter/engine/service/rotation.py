"""A new key for the store: everything is sealed anew, then the old key is forgotten.

A rotation may be cut off anywhere. Until the very end both keys open; the next call goes on with the same new key. Where engines
share a store the old key stays until the next rotation: another engine may write with it, and needs the new key from the file.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ..keys.vault import Vault
from ..store import sealed
from ..store.database import Database
from ..store.schema import SEALED_TABLES

AT_ONCE = 100
"""Values of one column in one transaction: the reconcilers wait for no more than that."""


async def rotate(database: Database, vault: Vault) -> dict[str, Any]:
    """``{key, forgotten, values}``: the id of the new key, those of the old ones, how many values were sealed anew.

    Called on the engine's loop, which goes on working. Raises StorageFull, ConfigurationError; then it is to be repeated.
    """
    await asyncio.to_thread(vault.load)
    foreign = await database.read(sealed.count_foreign, SEALED_TABLES, vault.sealing)
    key = await asyncio.to_thread(vault.begin_rotation, go_on=foreign > 0 or not database.shared)
    values = 0
    # Writes that were sealed with the old key before this are done when the first of these begins: one thread makes them all.
    while done := await database.write(sealed.reseal, SEALED_TABLES, key, AT_ONCE):
        values += done
    forgotten = [] if database.shared else await asyncio.to_thread(vault.end_rotation)
    return {"key": key, "forgotten": forgotten, "values": values}
