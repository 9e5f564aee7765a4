"""The tables of the sweeps: the accounts at vendors that were ever used, and the orphans there."""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, String, Table, Text

from .columns import UntrustedText, metadata

accounts = Table(
    "accounts",
    metadata,
    # Every account at a vendor that was ever asked to make something, stored before it was: what the sweeps look at (R10).
    Column("account_id", String(64), primary_key=True),
    Column("backend", String(32), nullable=False),
    Column("project", String(64), nullable=False),
    Column("first_used_at", Float, nullable=False),
    # The last sweep that came to its end, and until when the engine that sweeps it now is let alone.
    Column("swept_at", Float),
    Column("claimed_until", Float),
    # Why the account cannot be asked; '' when it can.
    Column("problem", UntrustedText, nullable=False, default=""),
)

orphans = Table(
    "orphans",
    metadata,
    # What the vendor's last complete list holds under our names and no row needs.
    Column("account", String(64), ForeignKey("accounts.account_id", ondelete="RESTRICT"), primary_key=True),
    # 'instance', or the kind of a cloud resource.
    Column("kind", String(32), primary_key=True),
    # A hash of what the vendor's calls need of it: two machines may have one identity.
    Column("resource_id", String(64), primary_key=True),
    Column("identity", Text, nullable=False),
    # `steps.sweep.Verdict`.
    Column("verdict", String(16), nullable=False),
    Column("raw_status", UntrustedText, nullable=False, default=""),
    Column("region", Text, nullable=False, default=""),
    Column("price", Float),
    Column("first_seen_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    # When the vendor last accepted to end it.
    Column("delete_accepted_at", Float),
)
