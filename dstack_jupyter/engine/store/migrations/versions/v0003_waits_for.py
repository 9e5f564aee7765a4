"""What a pending run waits for is a column: until now it was read out of the run's message.

Revision: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

DELAYS = (15, 30, 60, 120, 300, 600)
"""Those of the retries at the time of this revision."""
NO_CAPACITY = "failed_to_start_due_to_no_capacity"

runs = sa.table(
    "runs", sa.column("id", sa.String), sa.column("state", sa.String), sa.column("next_at", sa.Float),
    sa.column("waits_for", sa.String),
)  # fmt: skip
attempts = sa.table(
    "attempts", sa.column("run_id", sa.String), sa.column("num", sa.Integer), sa.column("state", sa.String),
    sa.column("reason", sa.String), sa.column("finished_at", sa.Float),
)  # fmt: skip


def upgrade() -> None:
    op.add_column("runs", sa.Column("waits_for", sa.String(16), nullable=False, server_default=""))
    connection = op.get_bind()
    for run in connection.execute(sa.select(runs.c.id, runs.c.next_at).where(runs.c.state == "pending")).all():
        tried = connection.execute(sa.select(attempts).where(attempts.c.run_id == run.id)).all()
        newest = [row for row in tried if row.num == max(each.num for each in tried)]
        waits_for = _waits_for(run.next_at, newest)
        connection.execute(sa.update(runs).where(runs.c.id == run.id).values(waits_for=waits_for))


def _waits_for(next_at, newest) -> str:  # type: ignore[no-untyped-def]
    """``newest``: the last attempt of each job; whether the run has a schedule is sealed, so its time has to tell."""
    failed = [row for row in newest if row.state == "failed"]
    if not failed:
        return "schedule"
    retry_at = max(row.finished_at or 0.0 for row in newest) + DELAYS[min(max(row.num for row in failed), len(DELAYS) - 1)]
    # A schedule starts at a whole second; a retry, and what capacity woke, at a time of the database.
    if next_at is not None and next_at == int(next_at) and next_at != retry_at:
        return "schedule"
    return "capacity" if all(row.reason == NO_CAPACITY for row in failed) else "backoff"
