"""AMD Developer Cloud: a token with DigitalOcean's scopes."""

from __future__ import annotations

from ..digitalocean.account import account_of

ACCOUNT = account_of(
    "amddevcloud",
    "devcloud.amd.com",
    "If its API has moved, DSTACK_JUPYTER_AMDDEVCLOUD_ENDPOINT=https://HOST names the new host; a redirect is never followed.",
)
