"""Seeweb: newer than the backends page, understood and not supported."""

from __future__ import annotations

from ..config.account import Account, Guide

ACCOUNT = Account(
    guides={
        "api_token": Guide(
            steps=(
                "Log in to the ECS panel and create an API token.",
                "This version understands the entry and does nothing with it: not supported yet.",
            ),
        ),
    },
)
