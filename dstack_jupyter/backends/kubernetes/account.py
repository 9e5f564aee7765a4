"""Kubernetes: whatever the kubeconfig holds, and a ClusterRole that suffices."""

from __future__ import annotations

from ..config.account import Account, Guide, Permission
from ..config.base import BackendConfig

ROLE = """\
apiVersion: v1
kind: ServiceAccount
metadata: {{name: dstack-jupyter, namespace: {namespace}}}
---
# The backends page names no rights; these are what newer dstack asks for, and what `backends check` looks at.
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: dstack-jupyter}}
rules:
{rules}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: dstack-jupyter}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: dstack-jupyter}}
subjects: [{{kind: ServiceAccount, name: dstack-jupyter, namespace: {namespace}}}]"""

VERBS = {
    "namespaces": ("get", "create"),
    "pods": ("get", "list", "create", "delete"),
    "services": ("get", "create", "delete"),
    "nodes": ("get", "list"),
}


def policy(config: BackendConfig | None, granted: tuple[Permission, ...]) -> str:
    """A service account, a ClusterRole and its binding for `kubectl apply -f`."""
    verbs: dict[str, list[str]] = {}
    for each in granted:
        verb, _, resource = each.name.partition(" ")
        verbs.setdefault(resource, []).append(verb)
    rules = "\n".join(f'- {{apiGroups: [""], resources: [{name}], verbs: [{", ".join(each)}]}}' for name, each in verbs.items())
    return ROLE.format(namespace=getattr(config, "namespace", None) or "default", rules=rules)


ACCOUNT = Account(
    guides={
        "kubeconfig": Guide(
            steps=(
                "Point `kubeconfig.filename` at a kubeconfig whose context reaches the cluster; its content in `data` does too.",
                "For a login of its own apply what `%dstack backends policy kubernetes` prints and make a token for it.",
                "GPUs are seen only where the vendor's operator (NVIDIA GPU Operator and the like) labels the nodes.",
                "`proxy_jump` names a node that you can reach and a free node port (30000–32767): SSH into pods goes through it.",
            ),
            commands=(
                "kubectl config get-contexts",
                "kubectl apply -f policy.yaml",
                "kubectl create token dstack-jupyter --duration 8760h",
                "kubectl get nodes -o wide",
            ),
            tool="kubectl",
        ),
    },
    permissions=tuple(Permission(f"{verb} {resource}", page=False) for resource, verbs in VERBS.items() for verb in verbs)
    + tuple(
        Permission(f"{verb} persistentvolumeclaims", "feature", "volumes", page=False) for verb in ("get", "create", "delete")
    ),
    policy=policy,
)
