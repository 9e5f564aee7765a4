"""Which scopes a token of DigitalOcean has: the API tells nobody, so each is tried in a way that can change nothing.

Reading scopes are tried by reading. The others are tried on things that cannot exist and with bodies that cannot be accepted:
without the scope the answer is 403; with it, 404 or 422. (That rights are looked at before the body is what every API of this
kind does; it was not checked against a live account.)
"""

from __future__ import annotations

from typing import Any, Literal

from ...models.backends import PermissionView
from ...models.errors import BackendError, BadCredentials, NotAtVendor, PermissionMissing, Refused
from ..config.account import Permission
from ..rest import Rest
from .api import projects

NOBODY = 2**53 - 1
"""No droplet or key has this id: the vendor's are counted up from 1, and this is the largest that JSON carries safely."""
NO_PROJECT = "00000000-0000-4000-8000-000000000000"

Probe = tuple[str, str, dict[str, Any] | None]
PROBES: dict[str, Probe] = {
    "account:read": ("GET", "/v2/account", None),
    "droplet:create": ("POST", "/v2/droplets", {}),
    "droplet:read": ("GET", "/v2/droplets", None),
    "droplet:update": ("POST", f"/v2/droplets/{NOBODY}/actions", {"type": "rename", "name": "dj-nobody"}),
    "droplet:delete": ("DELETE", f"/v2/droplets/{NOBODY}", None),
    "project:create": ("POST", "/v2/projects", {}),
    "project:read": ("GET", "/v2/projects", None),
    "project:update": ("PATCH", f"/v2/projects/{NO_PROJECT}", {}),
    "project:delete": ("DELETE", f"/v2/projects/{NO_PROJECT}", None),
    "regions:read": ("GET", "/v2/regions", None),
    "sizes:read": ("GET", "/v2/sizes", None),
    "ssh_key:create": ("POST", "/v2/account/keys", {}),
    "ssh_key:read": ("GET", "/v2/account/keys", None),
    "ssh_key:update": ("PUT", f"/v2/account/keys/{NOBODY}", {}),
    "ssh_key:delete": ("DELETE", f"/v2/account/keys/{NOBODY}", None),
}
UNTRIED = {"droplet:admin": "nothing that the vendor publishes needs it, so nothing tells whether it is there"}

Status = Literal["granted", "missing", "unknown"]


def rows(rest: Rest, permissions: tuple[Permission, ...], project_name: str | None, title: str) -> list[PermissionView]:
    """The log in, the project, then each scope of the page. Raises only where nobody can be asked (BackendUnreachable, …)."""

    def row(
        permission: str, status: Status, hint: str, purpose: str, level: Literal["required", "feature", "improves"] = "required"
    ) -> PermissionView:
        return PermissionView(
            backend=rest.name, permission=permission, status=status, hint=hint, purpose=purpose, level=level, on_the_page=True
        )

    try:
        account = rest.get("/v2/account", permission="account:read")["account"]
        login = row("log in", *_who(account), "everything")
    except BadCredentials as error:
        unasked = [row(each.name, "unknown", "the key is not known", each.purpose, each.level) for each in permissions]
        return [row("log in", "missing", error.text, "everything"), *unasked]
    except PermissionMissing:
        login = row("log in", "granted", "who it is, only the scope account:read would tell", "everything")
    rights = [login]
    if project_name:
        rights.append(row(f"project {project_name}", *_project(rest, project_name), "machines"))
    for each in permissions:
        status, hint = _tried(rest, each.name, title)
        rights.append(row(each.name, status, hint, each.purpose, each.level))
    return rights


def _who(account: dict[str, Any]) -> tuple[Status, str]:
    team = (account.get("team") or {}).get("name")
    limit = account.get("droplet_limit")
    who = str(account.get("email", "")) + (f", team {team}" if team else "")
    who += f", at most {limit} machines" if limit is not None else ""
    if account.get("status") == "locked":
        return "missing", f"{who}: the account is locked: {account.get('status_message', '')}".rstrip(": ")
    return "granted", who + (f"; {account.get('status_message')}" if account.get("status") == "warning" else "")


def _project(rest: Rest, name: str) -> tuple[Status, str]:
    try:
        names = projects(rest)
    except BackendError as error:
        return "unknown", error.message
    if name in names:
        return "granted", ""
    there = ", ".join(sorted(names)[:12])
    return "missing", f"the account has no project of this name, it has: {there}; mend `project_name` or leave it out"


def _tried(rest: Rest, scope: str, title: str) -> tuple[Status, str]:
    if scope in UNTRIED:
        return "unknown", UNTRIED[scope]
    try:
        _try(rest, scope)
    except PermissionMissing:
        noun, _, verb = scope.partition(":")
        return "missing", f"make a token at {title} with {noun}: {verb} ticked too; the scopes of one that exists are fixed"
    except (NotAtVendor, Refused):
        return "granted", ""
    except BackendError as error:
        return "unknown", error.message
    return "granted", ""


def _try(rest: Rest, scope: str) -> None:
    method, path, body = PROBES[scope]
    if method != "GET":
        rest.send(method, path, body, permission=scope)
    elif path == "/v2/account":
        rest.get(path, permission=scope)
    else:
        rest.get(path, {"per_page": 1}, permission=scope)
