"""What stands in the accounts at vendors, as it crosses the wire. Times are seconds since the epoch, prices dollars per hour."""

from __future__ import annotations

from typing import Literal

from .base import WireModel

Standing = Literal["in use", "ending", "kept", "left"]
"""``in use``: a run or fleet that goes on has it. ``ending``: it is going, or the next sweep ends it. ``kept``: something that is
in use needs it. ``left``: nobody needs it, only its user can have it ended."""


class MadeView(WireModel):
    """Something that this installation made, or that bears its names. ``resource_id`` is unique in its account and kind."""

    kind: str
    """``instance``, or what a thing beside machines is: ``ssh-key``, …"""
    resource_id: str
    name: str
    standing: Standing
    state: str = ""
    """Of the row, where there is one."""
    raw_status: str = ""
    """The vendor's own word."""
    region: str = ""
    instance_type: str = ""
    price: float | None = None
    user: str = ""
    """The run or fleet that has it."""
    created_at: float | None = None
    console: str = ""
    why: str = ""
    """Why it is there, and where it cannot be ended now, why not."""
    deletable: bool = False


class AccountView(WireModel):
    """``problem`` says why it cannot be asked, and ``hint`` how to mend that; ``made`` is then what the store knows."""

    account_id: str
    backend: str
    project: str
    first_used_at: float
    swept_at: float | None = None
    problem: str = ""
    hint: str = ""
    made: list[MadeView] = []


class ResourceRef(WireModel):
    kind: str
    resource_id: str


class CleanupRequest(WireModel):
    """What is to be ended in one account."""

    account: str
    resources: list[ResourceRef]


class ForgetRequest(WireModel):
    """A machine whose account cannot be asked any more, by its name at the vendor."""

    name: str


class EndedView(WireModel):
    """What came of it. ``done``: the vendor accepted; for a machine it takes a while until it is gone."""

    kind: str
    resource_id: str
    name: str = ""
    done: bool
    message: str = ""
