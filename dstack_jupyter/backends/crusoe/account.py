"""Crusoe: newer than the backends page, understood and not supported."""

from __future__ import annotations

from ..config.account import Account, Guide

ACCOUNT = Account(
    guides={
        "access_key": Guide(
            steps=(
                "Log in to the console, open Security, API access, and create a key; note the id of the project too.",
                "This version understands the entry and does nothing with it: not supported yet.",
            ),
        ),
    },
)
