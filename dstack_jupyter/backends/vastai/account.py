"""Vast.ai: an API key."""

from __future__ import annotations

from ..config.account import Account, Guide

ACCOUNT = Account(
    guides={
        "api_key": Guide(
            steps=(
                "Log in at cloud.vast.ai, open Account (Keys) and copy or create an API key.",
                "Enter it with `%dstack configure vastai`.",
            ),
        ),
    },
    more=("Machines belong to private owners: what a run sees there, its owner can see.", "Spot machines are not offered yet."),
)
