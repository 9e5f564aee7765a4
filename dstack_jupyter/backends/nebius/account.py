"""Nebius: a service account in the editors group."""

from __future__ import annotations

from ..config.account import Account, Guide, Permission

ACCOUNT = Account(
    guides={
        "service_account": Guide(
            steps=(
                "In the console open Access, Service accounts, and make one.",
                "Add it to the group `editors` of the tenant: without that every call is refused.",
                "Give it an authorized key: upload a public key of yours, or let the nebius CLI write a credentials file.",
                "Name the private key (with both ids) or the credentials file with `%dstack configure nebius`; chmod 600 it.",
                "Where a region has several projects name the ones to use in `projects`, at most one a region.",
            ),
            commands=(
                "nebius iam service-account create --name dstack-jupyter",
                "nebius iam group-membership create --parent-id <EDITORS_GROUP_ID> --member-id <SERVICE_ACCOUNT_ID>",
                "nebius iam auth-public-key generate --service-account-id <SERVICE_ACCOUNT_ID>"
                " --output ~/.nebius/sa-credentials.json",
            ),
            tool="nebius",
        ),
    },
    permissions=(Permission("membership in the group editors"),),
    no_policy="add the service account to the group `editors` of the tenant; there is no finer role that suffices",
    more=("Quotas are per project and region: ask for more in the console under Limits.",),
)
