"""GCP: a service account or application default credentials, and the custom role with the page's gaps closed."""

from __future__ import annotations

from ..config.account import Account, Guide, Permission, permissions
from ..config.base import BackendConfig


def _tpu(config: BackendConfig) -> bool:
    return getattr(config, "tpu", None) is not False


MACHINES = """
compute.disks.create compute.firewalls.create compute.images.useReadOnly compute.instances.create compute.instances.delete
compute.instances.get compute.instances.setLabels compute.instances.setMetadata compute.instances.setServiceAccount
compute.instances.setTags compute.networks.get compute.networks.updatePolicy compute.regions.get compute.regions.list
compute.resourcePolicies.create compute.resourcePolicies.delete compute.routers.list compute.subnetworks.list
compute.subnetworks.use compute.subnetworks.useExternalIp compute.zoneOperations.get
"""
VOLUMES = """
compute.disks.delete compute.disks.get compute.disks.list compute.disks.setLabels compute.disks.use
compute.instances.attachDisk compute.instances.detachDisk
"""
TPU = "tpu.nodes.create tpu.nodes.get tpu.nodes.update tpu.nodes.delete tpu.operations.get tpu.operations.list"


def policy(config: BackendConfig | None, granted: tuple[Permission, ...]) -> str:
    """YAML for `gcloud iam roles create`; what the page lacks is marked."""
    lines = ["title: dstack_jupyter", "description: Machines for dstack_jupyter", "stage: GA", "includedPermissions:"]
    lines += [f"- {each.name}" + ("" if each.page else f"  # not on the backends page: {each.purpose}") for each in granted]
    return "\n".join(lines)


APIS = "gcloud services enable cloudapis.googleapis.com compute.googleapis.com cloudresourcemanager.googleapis.com"

ACCOUNT = Account(
    guides={
        "service_account": Guide(
            steps=(
                "Enable the APIs in the project; the last one lets us tell which permissions are missing.",
                "Save what `%dstack backends policy gcp` prints as role.yaml and make the role from it.",
                "Make a service account, give it the role, and make a JSON key for it.",
                "Name the key's file with `%dstack configure gcp` (chmod 600), or paste its content there.",
            ),
            commands=(
                "gcloud config set project <PROJECT_ID>",
                APIS,
                "gcloud iam roles create dstack_jupyter --project <PROJECT_ID> --file role.yaml",
                "gcloud iam service-accounts create dstack-jupyter",
                "gcloud projects add-iam-policy-binding <PROJECT_ID> --role projects/<PROJECT_ID>/roles/dstack_jupyter"
                " --member serviceAccount:dstack-jupyter@<PROJECT_ID>.iam.gserviceaccount.com",
                "gcloud iam service-accounts keys create key.json"
                " --iam-account dstack-jupyter@<PROJECT_ID>.iam.gserviceaccount.com",
            ),
            tool="gcloud",
        ),
        "default": Guide(
            steps=(
                "Log in so that programs may act for you; on a machine of GCP its own service account is taken.",
                "The identity needs the role that `%dstack backends policy gcp` prints, in the project.",
            ),
            commands=("gcloud auth application-default login", "gcloud projects list --format='json(projectId)'", APIS),
            tool="gcloud",
        ),
    },
    permissions=(
        *permissions(MACHINES),
        *permissions(VOLUMES, "feature", "volumes"),
        *permissions(TPU, "feature", "TPUs", needed=_tpu),
        *permissions("compute.reservations.list", "feature", "reservations", page=False),
        *permissions("compute.projects.get", "improves", "project quotas", page=False),
        *permissions("compute.instances.list", "improves", "finding machines that nobody owns", page=False),
    ),
    policy=policy,
    more=(
        "TPUs also need the role serviceAccountUser (roles/iam.serviceAccountUser) for the identity.",
        "In a Shared VPC: a firewall rule for port 22 from outside, all traffic inside; TPUs need roles/tpu.xpnAgent there.",
        "GPU quotas are per region, and GPUS_ALL_REGIONS for the project is 0 at first: ask for more under IAM, Quotas.",
    ),
)
