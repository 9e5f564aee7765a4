"""CloudRift: an API key, and a project that exists."""

from __future__ import annotations

from ..config.account import Account, Guide

ACCOUNT = Account(
    guides={
        "api_key": Guide(
            steps=(
                "Log in to the console and make a project if there is none: without one every request for a machine fails.",
                "Open API keys in the sidebar and create one; it is shown this one time.",
                "Enter it with `%dstack configure cloudrift`.",
            ),
        ),
    },
    more=("Machines start only while the account has a balance.",),
)
