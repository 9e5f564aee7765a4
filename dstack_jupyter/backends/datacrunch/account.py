"""DataCrunch (Verda): REST API credentials, a pair."""

from __future__ import annotations

from ..config.account import Account, Guide

ACCOUNT = Account(
    guides={
        "api_key": Guide(
            steps=(
                "Log in to the console, open Keys, REST API credentials, and generate a pair; the secret is shown this one time.",
                "Enter id and secret with `%dstack configure datacrunch` (`type: verda` means the same).",
            ),
        ),
    },
    more=("Machines start only while the balance of the project is above 0.",),
)
