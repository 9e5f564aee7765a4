"""Slurm: newer than the backends page, understood and not supported."""

from __future__ import annotations

from ..config.account import Account, Guide

ACCOUNT = Account(
    guides={
        "private_key": Guide(
            steps=(
                "Put the public half of a key into authorized_keys of your user on the login node; chmod 600 the private half.",
                "This version understands the entry and does nothing with it: not supported yet.",
            ),
        ),
    },
)
