"""Alembic's entry: runs the migrations over the connection that ``migrate.upgrade`` hands in."""

from alembic import context

from dstack_jupyter.engine.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
