"""DigitalOcean: a token with scopes. AMD Developer Cloud has the same."""

from __future__ import annotations

from ..config.account import Account, Guide, Permission
from ..config.base import BackendConfig

SCOPES = {
    "account": ("read",),
    "droplet": ("create", "read", "update", "delete", "admin"),
    "project": ("create", "read", "update", "delete"),
    "regions": ("read",),
    "sizes": ("read",),
    "ssh_key": ("create", "read", "update", "delete"),
}
"""Those of the backends page."""


def _names_a_project(config: BackendConfig) -> bool:
    return bool(getattr(config, "project_name", None))


NEEDED = {
    **dict.fromkeys(("droplet:create", "droplet:read", "droplet:delete", "ssh_key:create", "ssh_key:read"), "machines"),
    **dict.fromkeys(("sizes:read", "regions:read"), "offers"),
}


def _permission(scope: str) -> Permission:
    if scope in NEEDED:
        return Permission(scope, "required", NEEDED[scope])
    if scope == "project:read":
        return Permission(scope, "feature", "`project_name`", needed=_names_a_project)
    if scope == "ssh_key:delete":
        return Permission(scope, "feature", "cleaning up the account")
    if scope == "droplet:update":
        return Permission(scope, "improves", "reading what a job left on a machine that powered itself off")
    if scope == "account:read":
        return Permission(scope, "improves", "telling who we are, and a locked account")
    return Permission(scope, "improves", "nothing so far: the page lists it")


PERMISSIONS = tuple(_permission(f"{noun}:{verb}") for noun, verbs in SCOPES.items() for verb in verbs)


def account_of(name: str, site: str, *more: str) -> Account:
    """The account's side of a backend with these scopes. ``site`` is where a person logs in."""
    return Account(
        guides={
            "api_key": Guide(
                steps=(
                    f"Log in at {site}, open API in the sidebar and generate a new token with custom scopes.",
                    *(f"Tick {noun}: {', '.join(verbs)}." for noun, verbs in SCOPES.items()),
                    f"The token is shown this one time: enter it with `%dstack configure {name}`.",
                    "`project_name` must be a project of the account; without it the default project is used.",
                ),
            ),
        },
        permissions=PERMISSIONS,
        policy=lambda config, granted: "\n".join(each.name for each in granted),
        more=(
            "GPU machines need an account that is enabled for them, and a droplet limit above what runs already.",
            "A machine that is powered off goes on costing: only its end stops the bill.",
            *more,
        ),
    )


ACCOUNT = account_of("digitalocean", "cloud.digitalocean.com")
