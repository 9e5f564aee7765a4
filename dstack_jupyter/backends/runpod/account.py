"""RunPod: an API key with read and write."""

from __future__ import annotations

from ..config.account import Account, Guide, Permission

ACCOUNT = Account(
    guides={
        "api_key": Guide(
            steps=(
                "Log in to the console, open Settings, API keys, and create one of the kind Read & Write (or All).",
                "Enter it with `%dstack configure runpod`.",
                "`community_cloud: false` leaves out machines of private owners; their regions are country codes.",
            ),
        ),
    },
    permissions=(Permission("read"), Permission("write")),
    no_policy="make the key with Read & Write: a read-only key shows offers and starts nothing",
    more=("Pods start only while the account has a balance.",),
)
