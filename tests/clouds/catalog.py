"""What DigitalOcean and AMD Developer Cloud sell, as the tests have it, and where their live service goes beyond the file."""

from __future__ import annotations

from typing import Any

SPEC = "digitalocean/DigitalOcean-public.v2.bundled.yaml"
PATHS = (
    "/v2/account", "/v2/account/keys", "/v2/account/keys/{ssh_key_identifier}", "/v2/droplets", "/v2/droplets/{droplet_id}",
    "/v2/droplets/{droplet_id}/actions", "/v2/projects", "/v2/projects/{project_id}", "/v2/regions", "/v2/sizes",
)  # fmt: skip
PAGE_SCOPES = frozenset(
    f"{noun}:{verb}"
    for noun, verbs in {
        "account": "read", "droplet": "create read update delete admin", "project": "create read update delete",
        "regions": "read", "sizes": "read", "ssh_key": "create read update delete",
    }.items()
    for verb in verbs.split()
)  # fmt: skip
WORDS = {"starting": "new", "running": "active", "stopped": "off", "ending": "active"}
SWITCHES = {
    "account locked": "the account is locked",
    "deletes are punished": "more than this number of deletes of one droplet lock the account",
    "key race": "a key is added by somebody else in the moment before ours",
    "status": "droplets have this status",
}


def size(slug: str, price: float, regions: list[str], gpu: tuple[int, str, int] | None = None, **more: Any) -> dict[str, Any]:
    """One entry of the sizes. ``gpu``: count, model, vram in GiB."""
    found = {
        "slug": slug, "memory": 245760, "vcpus": 20, "disk": 720, "transfer": 15.0, "price_monthly": round(price * 744, 2),
        "price_hourly": price, "regions": regions, "available": True, "description": "of the tests",
        "disk_info": [{"type": "local", "size": {"amount": 720, "unit": "gib"}}],
    } | more  # fmt: skip
    if gpu is not None:
        count, model, vram = gpu
        found["gpu_info"] = {"count": count, "model": model, "vram": {"amount": vram, "unit": "gib"}}
    return found


SIZES = [
    size("s-1vcpu-1gb", 0.00893, ["nyc1", "tor1", "ams3"], memory=1024, vcpus=1, disk=25),
    size("s-4vcpu-8gb", 0.07143, ["nyc1", "tor1", "ams3", "sfo1"], memory=8192, vcpus=4, disk=160),
    size("gpu-h100x1-80gb", 3.39, ["nyc2", "tor1"], (1, "nvidia_h100", 80)),
    # All the memory, not that of one GPU.
    size("gpu-h100x8-640gb", 23.92, ["nyc2"], (8, "nvidia_h100", 640), memory=1966080, vcpus=160, disk=2046),
    size("gpu-l40sx1-48gb", 1.57, ["tor1"], (1, "nvidia_l40s", 48), memory=65536, vcpus=8, disk=500),
    size("gpu-4000adax1-20gb", 0.76, ["tor1"], (1, "nvidia_rtx4000_ada", 20), memory=32768, vcpus=8, disk=500),
    size("gpu-mi300x1-192gb", 1.99, [], (1, "amd_mi300x", 192)),
]
AMD_SIZES = [
    size("gpu-mi300x1-192gb-devcloud", 1.99, ["atl1"], (1, "amd_mi300x", 192)),
    size("gpu-mi300x8-1536gb-devcloud", 15.92, ["atl1"], (8, "amd_mi300x", 1536), memory=1966080, vcpus=160, disk=2046),
]
REGIONS = {"nyc1": True, "nyc2": True, "tor1": True, "ams3": True, "sfo1": False, "atl1": True}
IMAGES = {"ubuntu-24-04-x64", "gpu-h100x1-base", "gpu-h100x8-base", "gpu-amd-base"}


def overlay(document: dict[str, Any]) -> None:
    """What the live service takes and the file lacks: `project_id` of a create (reference ``gpu-clouds``, SOURCE.txt).

    AMD's region is not in the file. A key's id in a path is 'a number or text' there; openapi-core reads paths as text only.
    """
    for operation in document["paths"]["/v2/account/keys/{ssh_key_identifier}"].values():
        for parameter in operation["parameters"] if isinstance(operation, dict) else ():
            parameter["schema"] = {"type": "string", "pattern": r"^([0-9]+|([0-9a-f]{2}:){15}[0-9a-f]{2})$"}
    body = document["paths"]["/v2/droplets"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    for variant in body["oneOf"]:
        variant["properties"]["project_id"] = {"type": "string", "format": "uuid"}
    _add_region(document, "atl1")


def _add_region(node: Any, slug: str) -> None:
    if isinstance(node, dict):
        if "ams1" in (known := node.get("enum", ())) and slug not in known:
            known.append(slug)
        for each in node.values():
            _add_region(each, slug)
    elif isinstance(node, list):
        for each in node:
            _add_region(each, slug)
