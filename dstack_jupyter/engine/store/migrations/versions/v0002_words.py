"""The terms of the glossary: cloud instances, cloud resources, orphans, account ids; what was observed, when a create was sent.

Revision: 0002

Only names change. What is stored stays, the keys inside ``observed`` included.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = {"rented": "cloud_instances", "attached": "cloud_resources", "strays": "orphans"}
COLUMNS = {
    "cloud_instances": {
        "asked_at": "create_sent_at", "told_at": "delete_accepted_at", "seen_at": "observed_at", "seen": "observed",
    },
    "cloud_resources": {"thing": "resource_id"},
    "accounts": {"mark": "account_id"},
    "orphans": {"thing": "resource_id", "said": "raw_status", "told_at": "delete_accepted_at"},
}  # fmt: skip
EVENTS = {"action": {"stray": "orphan"}, "kind": {"thing": "cloud_resource"}}
KEYS = {"word": "status", "said": "raw_status"}


def upgrade() -> None:
    for old, new in TABLES.items():
        op.rename_table(old, new)
    for table, columns in COLUMNS.items():
        for old, new in columns.items():
            # Both databases know this statement, and neither copies the table for it.
            op.execute(f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}")
    for column, words in EVENTS.items():
        for old, new in words.items():
            op.execute(f"UPDATE events SET {column} = '{new}' WHERE {column} = '{old}'")
    op.drop_index("attached_by_instance", "cloud_resources")
    op.create_index("cloud_resources_by_instance", "cloud_resources", ["instance_id"])
    connection = op.get_bind()
    rows = sa.table("cloud_instances", sa.column("instance_id", sa.String), sa.column("observed", sa.JSON))
    for row in connection.execute(sa.select(rows)).all():
        observed = {KEYS.get(key, key): value for key, value in (row.observed or {}).items()}
        connection.execute(sa.update(rows).where(rows.c.instance_id == row.instance_id).values(observed=observed))
