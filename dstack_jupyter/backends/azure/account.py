"""Azure: a service principal or what `az` uses, and the role with the page's gaps closed."""

from __future__ import annotations

import json

from ..config.account import Account, Guide, Permission, permissions
from ..config.base import BackendConfig


def _own_group(config: BackendConfig) -> bool:
    return not getattr(config, "resource_group", None)


def _identity(config: BackendConfig) -> bool:
    return bool(getattr(config, "vm_managed_identity", None))


MACHINES = """
Microsoft.Authorization/*/read Microsoft.Compute/availabilitySets/* Microsoft.Compute/locations/*
Microsoft.Compute/virtualMachines/* Microsoft.Compute/virtualMachineScaleSets/* Microsoft.Compute/cloudServices/*
Microsoft.Network/networkSecurityGroups/* Microsoft.Network/locations/* Microsoft.Network/virtualNetworks/*
Microsoft.Network/networkInterfaces/* Microsoft.Network/publicIPAddresses/*
Microsoft.Resources/subscriptions/resourceGroups/read Microsoft.Resources/subscriptions/read
"""


DISKS = "Microsoft.Compute/disks/write Microsoft.Compute/disks/read Microsoft.Compute/disks/delete"
IDENTITIES = """
Microsoft.ManagedIdentity/userAssignedIdentities/assign/action Microsoft.ManagedIdentity/userAssignedIdentities/read
"""


def policy(config: BackendConfig | None, granted: tuple[Permission, ...]) -> str:
    """A custom role for `az role definition create`; what the page lacks is named in the description."""
    subscription = getattr(config, "subscription_id", None) or "<SUBSCRIPTION_ID>"
    extra = [each.name for each in granted if not each.page]
    role = {
        "Name": "dstack-jupyter",
        "IsCustom": True,
        "Description": f"Machines for dstack_jupyter. Not on the backends page: {', '.join(extra) or 'nothing'}",
        "Actions": [each.name for each in granted],
        "NotActions": [],
        "DataActions": [],
        "NotDataActions": [],
        "AssignableScopes": [f"/subscriptions/{subscription}"],
    }
    return json.dumps(role, indent=4)


ACCOUNT = Account(
    guides={
        "client": Guide(
            steps=(
                "Save what `%dstack backends policy azure` prints as role.json and make the role from it.",
                "Make a service principal that has this role on the subscription; the answer holds its id and password.",
                "Enter tenant, subscription, client id and secret with `%dstack configure azure`.",
                "The secret ends after a year unless you say otherwise: note the date.",
            ),
            commands=(
                "az account show --query '{subscription_id: id, tenant_id: tenantId}'",
                "az role definition create --role-definition role.json",
                "az ad sp create-for-rbac --name dstack-jupyter --role dstack-jupyter"
                " --scopes /subscriptions/<SUBSCRIPTION_ID>"
                " --query '{tenant_id: tenant, client_id: appId, client_secret: password}'",
            ),
            tool="az",
        ),
        "default": Guide(
            steps=(
                "Log in with `az login`, or run where a managed identity or environment variables say who you are.",
                "Your own user needs the role that `%dstack backends policy azure` prints, or Contributor, on the subscription.",
            ),
            commands=("az login", "az account show --query '{subscription_id: id, tenant_id: tenantId}'"),
            tool="az",
        ),
    },
    permissions=(
        *permissions(MACHINES),
        *permissions(DISKS, "feature", "volumes"),
        *permissions(IDENTITIES, "feature", "vm_managed_identity", needed=_identity),
        Permission(
            "Microsoft.Resources/subscriptions/resourceGroups/write", "feature", "a resource group of ours", needed=_own_group
        ),
        *permissions(
            "Microsoft.Compute/skus/read Microsoft.Resources/subscriptions/locations/read", "improves", "live sizes", page=False
        ),
    ),
    policy=policy,
    more=(
        "Quotas are per region and VM family, and 0 for most GPU families at first: ask for more (Usage + quotas).",
        "The page's `az ad sp create-for-rbac` lacks a line continuation; the command above is one line.",
    ),
)
