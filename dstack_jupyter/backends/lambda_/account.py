"""Lambda: an API key."""

from __future__ import annotations

from ..config.account import Account, Guide

ACCOUNT = Account(
    guides={
        "api_key": Guide(
            steps=(
                "Log in at cloud.lambda.ai, open API keys in the sidebar and generate one; it is shown this one time.",
                "Enter it with `%dstack configure lambda`.",
            ),
        ),
    },
    more=("Machines start only while the account has a payment method and is below its quota.",),
)
