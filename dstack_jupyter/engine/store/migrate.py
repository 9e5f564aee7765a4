"""Brings a database to the schema of this version. Alembic is imported only when there is something to do."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import DatabaseError

from ...models.errors import EngineError

HEAD = "0003"
FOLDER = Path(__file__).parent / "migrations"


def current(connection: Connection) -> str | None:
    """The revision of the database; None for an empty database."""
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision


def upgrade(connection: Connection) -> None:
    """Called by the store on its thread when it opens, inside one transaction. Raises EngineError for a newer store."""
    revision = current(connection)
    if revision == HEAD:
        return
    if revision is not None and revision > HEAD:
        raise EngineError(
            f"the store was made by a newer version of dstack_jupyter (schema {revision}, this one knows {HEAD})",
            hint="upgrade dstack-jupyter, or name another state folder in DSTACK_JUPYTER_HOME",
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except DatabaseError as error:
        raise EngineError(f"the store could not be upgraded from {revision}: {error.orig}") from error
