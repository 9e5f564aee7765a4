"""Vultr: a personal access token, and its access control list."""

from __future__ import annotations

from ..config.account import Account, Guide

ACCOUNT = Account(
    guides={
        "api_key": Guide(
            steps=(
                "Log in at my.vultr.com, open Account, API, and enable the API: the page shows the personal access token.",
                "Under Access Control on the same page allow the address of the machine that runs Jupyter, or all addresses.",
                "Enter the token with `%dstack configure vultr`.",
            ),
        ),
    },
    more=("A right key from an address that is not allowed is refused like a wrong one: `Unauthorized IP address`.",),
)
