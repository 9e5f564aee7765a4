"""TensorDock: newer than the backends page, understood and not supported."""

from __future__ import annotations

from ..config.account import Account, Guide

ACCOUNT = Account(
    guides={
        "api_key": Guide(
            steps=(
                "The vendor is marked deprecated by dstack: the entry parses, nothing is done with it.",
                "This version understands the entry and does nothing with it: not supported yet.",
            ),
        ),
    },
)
