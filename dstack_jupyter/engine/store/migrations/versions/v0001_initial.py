"""The first schema.

Revision: 0001

A migration is history: it repeats the tables rather than importing them, so that it means the same next year.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

RUN = ("done", "failed", "pending", "provisioning", "running", "submitted", "terminated", "terminating")
RUN_END = ("done", "failed", "terminated")
ATTEMPT = ("aborted", "done", "failed", "provisioning", "pulling", "running", "submitted", "terminated", "terminating")
ATTEMPT_END = ("aborted", "done", "failed", "terminated")
INSTANCE = ("busy", "idle", "pending", "provisioning", "terminated", "terminating")
INSTANCE_END = ("terminated",)
FLEET = ("active", "terminated", "terminating")
FLEET_END = ("terminated",)
DESIRED = ("aborted", "running", "stopped")

COUNT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _quoted(states: tuple[str, ...]) -> str:
    return ", ".join(f"'{state}'" for state in states)


def _known(states: tuple[str, ...], column: str = "state") -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} IN ({_quoted(states)})", name=f"{column}_known")


def _guard(table: str, end: tuple[str, ...]) -> None:
    """A row in an end state keeps it, whoever writes (R4)."""
    dialect = op.get_bind().dialect.name
    if dialect == "sqlite":
        op.execute(
            f"CREATE TRIGGER {table}_end_is_final BEFORE UPDATE OF state ON {table} "
            f"WHEN OLD.state IN ({_quoted(end)}) AND NEW.state <> OLD.state "
            f"BEGIN SELECT RAISE(ABORT, '{table}: an end state is final'); END"
        )
        return
    op.execute(
        f"CREATE FUNCTION {table}_end_is_final() RETURNS trigger AS $$ BEGIN "
        f"RAISE EXCEPTION '{table}: an end state is final' USING ERRCODE = 'integrity_constraint_violation'; END $$ "
        "LANGUAGE plpgsql"
    )
    op.execute(
        f"CREATE TRIGGER {table}_end_is_final BEFORE UPDATE OF state ON {table} FOR EACH ROW "
        f"WHEN (OLD.state IN ({_quoted(end)}) AND NEW.state <> OLD.state) EXECUTE FUNCTION {table}_end_is_final()"
    )


def upgrade() -> None:
    op.create_table(
        "fleets",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("run_id", sa.String(16)),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("configuration", sa.Text),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("finished_at", sa.Float),
        sa.Column("place", sa.String(128), nullable=False),
        _known(FLEET),
    )
    op.create_index("fleets_by_run", "fleets", ["run_id"])
    active_fleet = sa.text(f"run_id IS NULL AND state NOT IN ({_quoted(FLEET_END)})")
    op.create_index(
        "one_active_fleet_per_name",
        "fleets",
        ["project", "name"],
        unique=True,
        sqlite_where=active_fleet,
        postgresql_where=active_fleet,
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("request_key", sa.String(64), nullable=False),
        sa.Column("user", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("desired", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("configuration", sa.Text, nullable=False),
        sa.Column("registry_password", sa.Text),
        sa.Column("code", sa.JSON, nullable=False),
        sa.Column("context", sa.JSON, nullable=False),
        sa.Column("fleet_id", sa.String(16), sa.ForeignKey("fleets.id", ondelete="RESTRICT"), nullable=False),
        sa.Column("submitted_at", sa.Float, nullable=False),
        sa.Column("next_at", sa.Float),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        sa.Column("exit_code", sa.Integer),
        _known(RUN),
        _known(DESIRED, "desired"),
        sa.UniqueConstraint("project", "request_key", name="one_run_per_request"),
    )
    active_run = sa.text(f"state NOT IN ({_quoted(RUN_END)})")
    op.create_index(
        "one_active_run_per_name",
        "runs",
        ["project", "name"],
        unique=True,
        sqlite_where=active_run,
        postgresql_where=active_run,
    )
    op.create_index("runs_by_time", "runs", ["project", "submitted_at"])
    op.create_table(
        "attempts",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("run_id", sa.String(16), sa.ForeignKey("runs.id", ondelete="RESTRICT"), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("replica", sa.Integer, nullable=False),
        sa.Column("job", sa.Integer, nullable=False),
        sa.Column("num", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("exit_code", sa.Integer),
        sa.Column("instance_id", sa.String(16)),
        sa.Column("log_offset", COUNT, nullable=False),
        sa.Column("submitted_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        _known(ATTEMPT),
        sa.UniqueConstraint("job_id", "num", name="one_attempt_per_number"),
    )
    op.create_index("attempts_by_run", "attempts", ["run_id"])
    op.create_table(
        "instances",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("identity", sa.String(64), nullable=False, unique=True),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("fleet_id", sa.String(16), sa.ForeignKey("fleets.id", ondelete="RESTRICT"), nullable=False),
        sa.Column("attempt_id", sa.String(16), sa.ForeignKey("attempts.id", ondelete="RESTRICT")),
        sa.Column("backend", sa.String(32), nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("instance_type", sa.Text, nullable=False),
        sa.Column("price", sa.Float),
        sa.Column("offer", sa.JSON, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("guard", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float),
        _known(INSTANCE),
    )
    active_instance = sa.text(f"state NOT IN ({_quoted(INSTANCE_END)})")
    op.create_index(
        "one_active_instance_per_attempt",
        "instances",
        ["attempt_id"],
        unique=True,
        sqlite_where=active_instance,
        postgresql_where=active_instance,
    )
    op.create_index("instances_by_fleet", "instances", ["fleet_id"])
    shared = sa.text("attempt_id IS NULL")
    op.create_index("shared", "instances", ["created_at"], sqlite_where=shared, postgresql_where=shared)
    op.create_table(
        "rented",
        sa.Column("instance_id", sa.String(16), sa.ForeignKey("instances.id", ondelete="RESTRICT"), primary_key=True),
        sa.Column("account", sa.String(64), nullable=False),
        *(
            sa.Column(f"{name}_at", sa.Float) if name != "absent" else sa.Column("absent_since", sa.Float)
            for name in ("asked", "rented", "seen", "absent", "ending", "told", "idle")
        ),
        sa.Column("vendor", sa.Text),
        sa.Column("seen", sa.JSON, nullable=False),
    )
    op.create_table(
        "attached",
        sa.Column("account", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(32), primary_key=True),
        sa.Column("identity", sa.String(64), primary_key=True),
        sa.Column("backend", sa.String(32), nullable=False),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("instance_id", sa.String(16), sa.ForeignKey("instances.id", ondelete="RESTRICT")),
        sa.Column("thing", sa.Text, nullable=False),
        sa.Column("ours", sa.Integer, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_index("attached_by_instance", "attached", ["instance_id"])
    op.create_table(
        "accounts",
        sa.Column("mark", sa.String(64), primary_key=True),
        sa.Column("backend", sa.String(32), nullable=False),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("first_used_at", sa.Float, nullable=False),
        sa.Column("swept_at", sa.Float),
        sa.Column("claimed_until", sa.Float),
        sa.Column("problem", sa.Text, nullable=False),
    )
    op.create_table(
        "strays",
        sa.Column("account", sa.String(64), sa.ForeignKey("accounts.mark", ondelete="RESTRICT"), primary_key=True),
        sa.Column("kind", sa.String(32), primary_key=True),
        sa.Column("thing", sa.String(64), primary_key=True),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("said", sa.Text, nullable=False),
        sa.Column("region", sa.Text, nullable=False),
        sa.Column("price", sa.Float),
        sa.Column("first_seen_at", sa.Float, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.Column("told_at", sa.Float),
    )
    op.create_table(
        "gpu_claims",
        sa.Column("host", sa.String(64), primary_key=True),
        sa.Column("gpu", sa.Integer, primary_key=True),
        sa.Column("instance_id", sa.String(16), sa.ForeignKey("instances.id", ondelete="RESTRICT"), nullable=False),
    )
    op.create_table(
        "bookings",
        sa.Column("instance_id", sa.String(16), sa.ForeignKey("instances.id", ondelete="RESTRICT"), primary_key=True),
        sa.Column("block", sa.Integer, primary_key=True),
        sa.Column("attempt_id", sa.String(16), sa.ForeignKey("attempts.id", ondelete="RESTRICT"), nullable=False),
    )
    op.create_index("bookings_by_attempt", "bookings", ["attempt_id"])
    op.create_table(
        "sealed_values",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "host_keys",
        sa.Column("endpoint", sa.String(512), primary_key=True),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("pinned_at", sa.Float, nullable=False),
    )
    op.create_table(
        "log_chunks",
        sa.Column("attempt_id", sa.String(16), sa.ForeignKey("attempts.id", ondelete="RESTRICT"), primary_key=True),
        sa.Column("offset", COUNT, primary_key=True),
        sa.Column("length", COUNT, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("data", sa.LargeBinary),
        sa.Column("reason", sa.Text, nullable=False),
        sa.CheckConstraint("length > 0", name="chunk_not_empty"),
    )
    op.create_table(
        "events",
        sa.Column("seq", COUNT, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("project", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("resource_id", sa.String(16), nullable=False),
        sa.Column("run_id", sa.String(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_run", "events", ["run_id", "seq"])
    op.create_table(
        "leases",
        sa.Column("resource", sa.String(16), primary_key=True),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
    )
    op.create_index("leases_by_owner", "leases", ["owner"])
    op.create_table(
        "conditions",
        sa.Column("attempt_id", sa.String(16), sa.ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("message", sa.Text, nullable=False),
        sa.Column("since", sa.Float, nullable=False),
    )
    op.create_table(
        "engines",
        sa.Column("owner", sa.String(32), primary_key=True),
        sa.Column("place", sa.String(128), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    op.create_table(
        "code_chunks",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    for table, end in (
        ("runs", RUN_END),
        ("attempts", ATTEMPT_END),
        ("instances", INSTANCE_END),
        ("fleets", FLEET_END),
    ):
        _guard(table, end)
