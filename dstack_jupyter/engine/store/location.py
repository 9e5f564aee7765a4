"""Where the store is: a SQLite file of the home, or a PostgreSQL database that several engines share, by its URL.

The URL holds a password, so it is a secret from the moment it is read. It stands in ``DSTACK_JUPYTER_DATABASE``, or in the
file ``database`` of the home (0600), which wins nothing over the variable but is not seen by every process that we start.
"""

from __future__ import annotations

import os
import stat

from ...models.errors import ConfigurationError
from ...models.home import Home
from ...models.secret import Secret

ENV_DATABASE = "DSTACK_JUPYTER_DATABASE"
SCHEMES = ("postgresql://", "postgres://", "postgresql+psycopg://")
EXAMPLE = "postgresql://user:password@host:5432/name"


def shared(home: Home) -> Secret | None:
    """The URL of the shared database; None where the home has a SQLite file of its own. Raises ConfigurationError."""
    text = os.environ.get(ENV_DATABASE, "").strip()
    if not text:
        try:
            status = home.database.stat()
            text = home.database.read_text().strip()
        except FileNotFoundError:
            return None
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise ConfigurationError(
                f"others can read {home.database}, which holds a password", hint=f"chmod 600 {home.database}, then try again"
            )
    if not text.startswith(SCHEMES):
        # The value is not repeated: it may be a password in the wrong place.
        raise ConfigurationError("the database is not a PostgreSQL URL", hint=f"it looks like {EXAMPLE}")
    return Secret(text)
