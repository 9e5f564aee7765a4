"""The tables, as SQLAlchemy Core sees them. The migrations make them; a test holds the two against each other.

Times are seconds since the epoch (float) taken from the database, never from the caller's clock. Ids are 16 hexadecimal
digits. What only ever grows into new shapes (a configuration, a backend's own data) is JSON; what is queried is a column.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from ...models.states import (
    ATTEMPT_END,
    FLEET_END,
    INSTANCE_END,
    RUN_END,
    AttemptState,
    Desired,
    FleetState,
    InstanceState,
    RunState,
)
from .columns import Count, UntrustedText, metadata, quoted, state_known
from .sealed import Sealed

runs = Table(
    "runs",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("project", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("type", String(16), nullable=False),
    Column("request_key", String(64), nullable=False),
    Column("user", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("desired", String(16), nullable=False),
    Column("reason", String(64), nullable=False, default=""),
    Column("message", UntrustedText, nullable=False, default=""),
    # The variables of a run are often keys.
    Column("configuration", Sealed("runs.configuration"), nullable=False),
    # Of `registry_auth`; NULL as soon as no job of the run can need it any more.
    Column("registry_password", Sealed("runs.registry_password")),
    Column("code", JSON, nullable=False),
    Column("context", JSON, nullable=False),
    Column("fleet_id", String(16), ForeignKey("fleets.id", ondelete="RESTRICT"), nullable=False),
    Column("submitted_at", Float, nullable=False),
    # When a pending run tries again or begins, and what for; '' where it does not wait.
    Column("next_at", Float),
    Column("waits_for", String(16), nullable=False, server_default=text("''")),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("exit_code", Integer),
    state_known(RunState),
    CheckConstraint(f"desired IN ({quoted(Desired)})", name="desired_known"),
    # The same request twice is one run (R15).
    UniqueConstraint("project", "request_key", name="one_run_per_request"),
    Index(
        "one_active_run_per_name",
        "project",
        "name",
        unique=True,
        sqlite_where=text(f"state NOT IN ({quoted(RUN_END)})"),
        postgresql_where=text(f"state NOT IN ({quoted(RUN_END)})"),
    ),
    Index("runs_by_time", "project", "submitted_at"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("run_id", String(16), ForeignKey("runs.id", ondelete="RESTRICT"), nullable=False),
    Column("job_id", String(32), nullable=False),
    Column("replica", Integer, nullable=False),
    Column("job", Integer, nullable=False),
    Column("num", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", String(64), nullable=False, default=""),
    Column("message", UntrustedText, nullable=False, default=""),
    Column("exit_code", Integer),
    # The instance that it is booked on, or was.
    Column("instance_id", String(16)),
    # Offset n means: bytes [0, n) of the log are stored exactly once, or are an explicit gap (R13).
    Column("log_offset", Count, nullable=False, default=0),
    Column("submitted_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    state_known(AttemptState),
    UniqueConstraint("job_id", "num", name="one_attempt_per_number"),
    Index("attempts_by_run", "run_id"),
)

fleets = Table(
    "fleets",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("project", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    # The run that made this fleet for itself; such a fleet goes with its last instance.
    Column("run_id", String(16)),
    # `run`: a run's own; `ssh`, `cloud`: what a user applied.
    Column("kind", String(8), nullable=False, default="run"),
    # Why the fleet is short of machines.
    Column("message", UntrustedText, nullable=False, default=""),
    # What a user applied; NULL for a run's own fleet.
    Column("configuration", Sealed("fleets.configuration")),
    Column("user", Text, nullable=False, default=""),
    Column("state", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    # The machine and home whose engine alone can act, since the job is a process there; '' for any.
    Column("place", String(128), nullable=False, default=""),
    state_known(FleetState),
    Index("fleets_by_run", "run_id"),
    Index(
        "one_active_fleet_per_name",
        "project",
        "name",
        unique=True,
        sqlite_where=text(f"run_id IS NULL AND state NOT IN ({quoted(FLEET_END)})"),
        postgresql_where=text(f"run_id IS NULL AND state NOT IN ({quoted(FLEET_END)})"),
    ),
)

instances = Table(
    "instances",
    metadata,
    Column("id", String(16), primary_key=True),
    # dj-<installation>-<resource>: the same on every retry, what a sweep finds it by.
    Column("identity", String(64), nullable=False, unique=True),
    Column("project", String(64), nullable=False),
    Column("fleet_id", String(16), ForeignKey("fleets.id", ondelete="RESTRICT"), nullable=False),
    # The attempt that the instance is made for; NULL for shared machines, which runs book.
    Column("attempt_id", String(16), ForeignKey("attempts.id", ondelete="RESTRICT")),
    Column("backend", String(32), nullable=False),
    Column("region", Text, nullable=False),
    Column("instance_type", Text, nullable=False),
    Column("price", Float),
    Column("offer", JSON, nullable=False),
    # A backend's own: where vendors give passwords or keys with a machine, they are here.
    Column("data", Sealed("instances.data"), nullable=False),
    Column("guard", JSON, nullable=False),
    Column("state", String(16), nullable=False),
    Column("message", UntrustedText, nullable=False, default=""),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("finished_at", Float),
    state_known(InstanceState),
    # At most one active instance per attempt (R2).
    Index(
        "one_active_instance_per_attempt",
        "attempt_id",
        unique=True,
        sqlite_where=text(f"state NOT IN ({quoted(INSTANCE_END)})"),
        postgresql_where=text(f"state NOT IN ({quoted(INSTANCE_END)})"),
    ),
    Index("instances_by_fleet", "fleet_id"),
    # The few that no attempt was made for, among all that ever were: every run asks for them.
    Index("shared", "created_at", sqlite_where=text("attempt_id IS NULL"), postgresql_where=text("attempt_id IS NULL")),
)

cloud_instances = Table(
    "cloud_instances",
    metadata,
    # What is known of an instance at a vendor: a row for each cloud instance, stored together with its intent (R1).
    Column("instance_id", String(16), ForeignKey("instances.id", ondelete="RESTRICT"), primary_key=True),
    # The account id: a hash, no secret.
    Column("account", String(64), nullable=False, default=""),
    # When the last create was sent, stored before the call; NULL: no create that could have made anything.
    Column("create_sent_at", Float),
    # When the vendor was first known to have the machine: from then on the machine costs.
    Column("rented_at", Float),
    # When the vendor last reported the machine, and since when the vendor says that there is none.
    Column("observed_at", Float),
    Column("absent_since", Float),
    # When the end was decided, and when the vendor last accepted the delete.
    Column("ending_at", Float),
    Column("delete_accepted_at", Float),
    # Since when a machine that its fleet keeps a while has no job.
    Column("idle_at", Float),
    # `backends.base.Instance.data`: what the vendor's calls need; NULL until the vendor has reported the machine.
    # The name that the value is sealed under is that of the first schema: what is stored already stays readable.
    Column("vendor", Sealed("rented.vendor")),
    # The vendor's last answer: status, raw_status, address, internal_address, user, port, region, console.
    Column("observed", JSON, nullable=False),
)

cloud_resources = Table(
    "cloud_resources",
    metadata,
    # Cloud resources (a key object, a firewall, a disk): a row before each is made.
    Column("account", String(64), primary_key=True),
    Column("kind", String(32), primary_key=True),
    Column("identity", String(64), primary_key=True),
    Column("backend", String(32), nullable=False),
    Column("project", String(64), nullable=False),
    # The machine that the resource belongs to; NULL: shared, of the installation.
    Column("instance_id", String(16), ForeignKey("instances.id", ondelete="RESTRICT")),
    # `backends.base.CloudResource.id`; '' until the vendor confirmed the resource.
    Column("resource_id", Text, nullable=False, default=""),
    # 0 for resources that existed before us: never removed.
    Column("ours", Integer, nullable=False, default=1),
    Column("data", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("cloud_resources_by_instance", "instance_id"),
)

gpu_claims = Table(
    "gpu_claims",
    metadata,
    # GPUs of a shared host are exclusive: the key refuses a second claim, whoever races.
    Column("host", String(64), primary_key=True),
    Column("gpu", Integer, primary_key=True),
    Column("instance_id", String(16), ForeignKey("instances.id", ondelete="RESTRICT"), nullable=False),
)

bookings = Table(
    "bookings",
    metadata,
    # A block of a fleet's machine has one job: the key refuses a second, whoever races.
    Column("instance_id", String(16), ForeignKey("instances.id", ondelete="RESTRICT"), primary_key=True),
    Column("block", Integer, primary_key=True),
    Column("attempt_id", String(16), ForeignKey("attempts.id", ondelete="RESTRICT"), nullable=False),
    Index("bookings_by_attempt", "attempt_id"),
)

sealed_values = Table(
    "sealed_values",
    metadata,
    # What an installation keeps for itself: the seed of its runs' keys, and a value that tells the right key of the store.
    Column("name", String(64), primary_key=True),
    Column("value", Sealed("sealed_values.value"), nullable=False),
)

host_keys = Table(
    "host_keys",
    metadata,
    Column("endpoint", String(512), primary_key=True),
    Column("key", Text, nullable=False),
    Column("pinned_at", Float, nullable=False),
)

log_chunks = Table(
    "log_chunks",
    metadata,
    Column("attempt_id", String(16), ForeignKey("attempts.id", ondelete="RESTRICT"), primary_key=True),
    Column("offset", Count, primary_key=True),
    Column("length", Count, nullable=False),
    Column("at", Float, nullable=False),
    # NULL: a gap of `length` bytes, `reason` says why.
    Column("data", LargeBinary),
    Column("reason", Text, nullable=False, default=""),
    CheckConstraint("length > 0", name="chunk_not_empty"),
)

events = Table(
    "events",
    metadata,
    Column("seq", Count, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("actor", Text, nullable=False),
    Column("project", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("resource_id", String(16), nullable=False),
    Column("run_id", String(16), nullable=False, default=""),
    Column("name", String(64), nullable=False, default=""),
    Column("action", String(32), nullable=False),
    Column("message", UntrustedText, nullable=False, default=""),
    Index("events_by_run", "run_id", "seq"),
    sqlite_autoincrement=True,
)

leases = Table(
    "leases",
    metadata,
    # A fleet's id, or `store` for a whole SQLite store. Who acts for it until when, and how often it was taken (R7).
    Column("resource", String(16), primary_key=True),
    # An engine's life; '' when the lease was given back.
    Column("owner", String(32), nullable=False),
    Column("token", Integer, nullable=False),
    Column("expires_at", Float, nullable=False),
    Index("leases_by_owner", "owner"),
)

conditions = Table(
    "conditions",
    metadata,
    # Why an attempt does not get on at the moment; no row once the attempt does.
    Column("attempt_id", String(16), ForeignKey("attempts.id", ondelete="CASCADE"), primary_key=True),
    Column("type", String(16), nullable=False),
    Column("message", UntrustedText, nullable=False),
    Column("since", Float, nullable=False),
)

engines = Table(
    "engines",
    metadata,
    # Who shares this store: each engine's life, where it is (``place``), and when it was last heard of. Nothing is decided by it.
    Column("owner", String(32), primary_key=True),
    Column("place", String(128), nullable=False),
    Column("at", Float, nullable=False),
)

code_chunks = Table(
    "code_chunks",
    metadata,
    # Uploaded archives where several engines share the store; with SQLite they are files of the home.
    Column("sha256", String(64), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("data", LargeBinary, nullable=False),
)

# (table, states that nothing leaves): a trigger holds each (R4). The migrations make it from their own copy of the states; the
# tests hold the triggers against this list.
TERMINAL_RULES: tuple[tuple[str, frozenset[str]], ...] = (
    ("runs", frozenset(RUN_END)),
    ("attempts", frozenset(ATTEMPT_END)),
    ("instances", frozenset(INSTANCE_END)),
    ("fleets", frozenset(FLEET_END)),
)

SEALED_TABLES = [runs, fleets, instances, cloud_instances, sealed_values]
