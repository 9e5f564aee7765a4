"""Hot Aisle: a key made in a terminal, with two roles."""

from __future__ import annotations

from ..config.account import Account, Guide, Permission

ACCOUNT = Account(
    guides={
        "api_key": Guide(
            steps=(
                "Open the text console by SSH: `ssh admin.hotaisle.app`.",
                "Make a team if there is none: its handle goes into `team_handle`.",
                "Generate an API key for your member of that team.",
                "Give the key the role Owner for the user (it manages SSH keys) and Operator for the team (it manages machines).",
                "Enter handle and key with `%dstack configure hotaisle`.",
            ),
            commands=("ssh admin.hotaisle.app",),
            tool="ssh",
        ),
    },
    permissions=(Permission("owner of the user", purpose="SSH keys"), Permission("operator of the team")),
    no_policy="the key needs two roles: Owner for the user (SSH keys), Operator for the team (machines)",
    more=("A minimum reservation is charged for each machine, even if it is deleted sooner.",),
)
