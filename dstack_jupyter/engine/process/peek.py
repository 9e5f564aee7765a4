"""Does the store hold unfinished work? Answered without SQLAlchemy, since it decides whether to load any of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from ...models.home import Home
from ..store.location import shared


def has_unfinished(home: Home) -> bool:
    """Whether an engine is needed before anybody asks: for unfinished work of this home, or to share that of others.

    Called once by a host when it begins. Raises ConfigurationError for a database that cannot be one.
    """
    return shared(home) is not None or store_has_unfinished(home.store)


def store_has_unfinished(path: Path) -> bool:
    """Whether a run or a machine in this SQLite store still needs an engine. True too when the store cannot be read: then an
    engine must look. Takes about a millisecond."""
    if not path.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)) as connection:
            row = connection.execute("SELECT EXISTS (SELECT 1 FROM fleets WHERE state <> 'terminated')").fetchone()
            return bool(row[0])
    except sqlite3.Error:
        return True
