"""DigitalOcean: a token with scopes."""

from __future__ import annotations

from ..account import Account, Guide, Permission

SCOPES = {
    "account": ("read",),
    "droplet": ("create", "read", "update", "delete", "admin"),
    "project": ("create", "read", "update", "delete"),
    "regions": ("read",),
    "sizes": ("read",),
    "ssh_key": ("create", "read", "update", "delete"),
}

ACCOUNT = Account(
    guides={
        "api_key": Guide(
            steps=(
                "Log in at cloud.digitalocean.com, open API in the sidebar and generate a new token with custom scopes.",
                *(f"Tick {name}: {', '.join(verbs)}." for name, verbs in SCOPES.items()),
                "The token is shown this one time: enter it with `%dstack configure digitalocean`.",
                "`project_name` must be a project of the account; without it the default project is used.",
            ),
        ),
    },
    permissions=tuple(Permission(f"{name}:{verb}") for name, verbs in SCOPES.items() for verb in verbs),
    policy=lambda config, granted: "\n".join(each.name for each in granted),
    more=("GPU machines need an account that is enabled for them, and a droplet limit above what runs already.",),
)
