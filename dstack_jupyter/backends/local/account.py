"""This machine: nothing to log in to."""

from __future__ import annotations

from ..config.account import Account, Guide

ACCOUNT = Account(
    guides={
        "none": Guide(
            steps=("Nothing is needed: jobs run as processes of yours on the machine that runs Jupyter.",),
        ),
    },
    no_policy="the jobs run as you: no rights beyond yours are needed",
)
