"""OCI: an API key or the tools' own file, and the policy of a group."""

from __future__ import annotations

from ..config.account import Account, Guide, Permission
from ..config.base import BackendConfig

TENANCY = "read compartments in tenancy"
STATEMENTS = {
    "read marketplace-community-listings": "machines",
    "manage app-catalog-listing": "machines",
    "manage instances": "machines",
    "manage compute-capacity-reports": "machines",
    "manage virtual-network-family": "machines",
    "manage volumes": "volumes",
    "manage volume-attachments": "volumes",
}


def policy(config: BackendConfig | None, granted: tuple[Permission, ...]) -> str:
    """Policy statements, one a line, for a group and a compartment."""
    lines = []
    for each in granted:
        if each.name == TENANCY:
            where = "in tenancy where target.compartment.name = '<COMPARTMENT>'"
            lines.append(f"Allow group <GROUP> to read compartments {where}")
        elif each.page:
            lines.append(f"Allow group <GROUP> to {each.name} in compartment <COMPARTMENT>")
        else:
            lines.append(f"Allow group <GROUP> to {each.name} in tenancy")
    return "\n".join(lines)


ACCOUNT = Account(
    guides={
        "client": Guide(
            steps=(
                "In the console make a compartment, a group, and a policy from `%dstack backends policy oci`.",
                "As a user of that group open My profile, API keys, and add a key; download its private half and chmod 600 it.",
                "The console then shows user, tenancy, region and fingerprint: enter them with `%dstack configure oci`.",
            ),
            commands=("oci setup keys", "oci iam user api-key upload --user-id <USER> --key-file ~/.oci/oci_api_key_public.pem"),
            tool="oci",
        ),
        "default": Guide(
            steps=(
                "Set up the OCI tools' own file; `profile` and `file` in the entry name another part of it.",
                "The user needs the policy that `%dstack backends policy oci` prints.",
            ),
            commands=("oci setup config",),
            tool="oci",
        ),
    },
    permissions=(
        Permission(TENANCY),
        *(Permission(name, "feature" if purpose == "volumes" else "required", purpose) for name, purpose in STATEMENTS.items()),
        Permission("read instance-images", "improves", "platform images beside the community listing", page=False),
    ),
    policy=policy,
    more=(
        "Set compartment_id to the compartment of the policy; without it we make one, which the policy does not allow.",
        "GPU shapes have a service limit of 0 at first: ask for more under Governance, Limits.",
    ),
)
