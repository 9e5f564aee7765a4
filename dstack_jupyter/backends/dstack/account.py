"""dstack Sky: the hosted marketplace."""

from __future__ import annotations

from ..config.account import Account, Guide

ACCOUNT = Account(
    guides={
        "none": Guide(
            steps=(
                "dstack Sky rents machines in its own name; it is not available here: configure a vendor of your own instead.",
            ),
        ),
    },
)
