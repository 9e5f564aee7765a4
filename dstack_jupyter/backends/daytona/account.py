"""Daytona: newer than the backends page, understood and not supported."""

from __future__ import annotations

from ..config.account import Account, Guide

ACCOUNT = Account(
    guides={
        "api_key": Guide(
            steps=(
                "Log in to the dashboard and create an API key under Keys.",
                "This version understands the entry and does nothing with it: not supported yet.",
            ),
        ),
    },
)
