"""DigitalOcean's HTTP API: what its answers mean, its pages, its limits. AMD Developer Cloud speaks the same.

Facts: reference ``gpu-clouds`` §7 and the published OpenAPI file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ...models.errors import (
    BackendError,
    BadCredentials,
    Busy,
    NoBalance,
    NoCapacity,
    NoQuota,
    NotAtVendor,
    PermissionMissing,
    Refused,
)
from ...models.secret import Secret
from ..rest import Answer, Rest, one_line

LIMITS = ((250, 60.0), (5000, 3600.0))
"""(calls, seconds) of one token, as published."""
PAGE = 200
"""Rows a page; more break the vendor's contract."""
TRIES = 3
"""How often a list is read if it changes meanwhile."""

MEANINGS: tuple[tuple[int, str, type[BackendError]], ...] = (
    (422, r"not available in (this|the) region|region is not available|size is (currently )?(not|un)available", NoCapacity),
    (422, r"(sold|out) (out|of (stock|capacity))|capacity|insufficient", NoCapacity),
    (422, r"droplet limit|exceeds? (your|the) .*limit|quota", NoQuota),
    (402, r"", NoBalance),
    (403, r"billing|payment|balance|account (is )?(locked|suspended)", NoBalance),
    (422, r"billing|payment|balance|account (is )?(locked|suspended)", NoBalance),
    (409, r"", Busy),
    (422, r"pending event|already being", Busy),
    (404, r"", NotAtVendor),
    (400, r"", Refused),
    (422, r"", Refused),
)
"""(status, text, what it means): 422 is said for everything from a typing error to a sold out region."""


def client(name: str, base: str, token: Secret, title: str) -> Rest:
    """The client of one token. ``title`` is what people call the vendor."""

    def meaning(answer: Answer) -> BackendError | None:
        said = answer.body.get("message") if isinstance(answer.body, dict) else None
        text = one_line(str(said or answer.text))
        if answer.status == 401:
            return BadCredentials(f"{title} does not know this key: {text}", hint=f"`%dstack configure {name}` replaces it")
        for status, words, error in MEANINGS:
            if answer.status == status and re.search(words, text, re.IGNORECASE):
                return error(f"{title}: {text}")
        if answer.status == 403:
            return PermissionMissing(
                f"{title}: the key may not do this ({answer.permission}): {text}",
                hint=f"a token's scopes are fixed: make one that has {answer.permission} and `%dstack configure {name}`",
                permission=answer.permission,
            )
        return None

    value = token.reveal()
    return Rest(name, base, value, {"Authorization": f"Bearer {value}"}, meaning, LIMITS)


def listed(rest: Rest, path: str, key: str, permission: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """All pages of a list. Complete or an error: a row that comes or goes between two pages shifts others out of sight."""
    for _ in range(TRIES):
        rows: dict[Any, dict[str, Any]] = {}
        totals: set[int] = set()
        page = 1
        while True:
            answer = rest.get(path, {**(params or {}), "per_page": PAGE, "page": page}, permission=permission)
            try:
                items, total = answer[key], int(answer["meta"]["total"])
                rows.update((row.get("id", row.get("slug")), row) for row in items)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise BackendError(f"{rest.name}: a list without its {key} or their count") from None
            totals.add(total)
            page += 1
            if not items or len(items) < PAGE or (page - 1) * PAGE >= total:
                break
        if totals == {len(rows)}:
            return list(rows.values())
    raise BackendError(f"{rest.name}: the list of {key} changes while it is read", hint="ask again in a moment")


def projects(rest: Rest) -> dict[str, str]:
    """The account's projects: name → id."""
    return {str(row["name"]): str(row["id"]) for row in listed(rest, "/v2/projects", "projects", "project:read")}
