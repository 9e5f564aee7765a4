"""Alembic's entry: runs the migrations over the connection that ``migrate.upgrade`` hands in."""

from alembic import context

from dstack_jupyter.engine.store import schema, schema_accounts  # noqa: F401 - their tables are those of the metadata
from dstack_jupyter.engine.store.columns import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
