"""CUDO Compute: an API key and a project."""

from __future__ import annotations

from ..config.account import Account, Guide

ACCOUNT = Account(
    guides={
        "api_key": Guide(
            steps=(
                "Log in at compute.cudo.org and make a project if there is none: its id goes into `project_id`.",
                "Open API keys in the sidebar and create one; it is shown this one time.",
                "Enter both with `%dstack configure cudo`.",
            ),
        ),
    },
    more=("The project needs a billing account before machines can start.",),
)
