"""What a machine type's name says of its size, for vendors whose open price lists hold names and prices only.

``azure(name)`` and ``gcp(name)`` give (vCPUs, memory in GB, architecture); NaN is what the name does not say. The naming
rules are the vendors' own: the figure in an Azure name is its vCPUs (older ones count sizes: those stay unknown), a GCP name ends
in its vCPUs. Memory is a constant of the family, or a table for the few GPU machines whose names say nothing.
"""

from __future__ import annotations

import re
from math import nan

Size = tuple[float, float, str]

AWS: dict[str, tuple[float, float]] = {
    "dl1.24xlarge": (96, 768), "g3s.xlarge": (4, 30.5), "g3.4xlarge": (16, 122), "g3.8xlarge": (32, 244),
    "g3.16xlarge": (64, 488), "g4ad.xlarge": (4, 16), "g4ad.2xlarge": (8, 32), "g4ad.4xlarge": (16, 64),
    "g4ad.8xlarge": (32, 128), "g4ad.16xlarge": (64, 256), "p2.xlarge": (4, 61), "p2.8xlarge": (32, 488),
    "p2.16xlarge": (64, 732), "p3.2xlarge": (8, 61), "p3.8xlarge": (32, 244), "p3.16xlarge": (64, 488),
}  # fmt: skip
"""(vCPUs, GB) of AWS's older machines with GPUs."""

AZURE = re.compile(
    r"Standard_(?P<family>[A-Z]+)(?P<vcpus>\d+)(?:-(?P<active>\d+))?(?P<features>[a-z]*)(?:_cc)?(?:_(?P<gpu>[A-Z]\w*?))?"
    r"(?:_v(?P<version>\d+))?"
)
AZURE_GPU_MEMORY = {
    "NC6s_v3": 112, "NC12s_v3": 224, "NC24s_v3": 448, "NC24rs_v3": 448,
    "NC4as_T4_v3": 28, "NC8as_T4_v3": 56, "NC16as_T4_v3": 110, "NC64as_T4_v3": 440,
    "NC24ads_A100_v4": 220, "NC48ads_A100_v4": 440, "NC96ads_A100_v4": 880,
    "NC40ads_H100_v5": 320, "NC80adis_H100_v5": 640, "NCC40ads_H100_v5": 320,
    "ND40rs_v2": 672, "ND96asr_v4": 900, "ND96amsr_A100_v4": 1900,
    "ND96isr_H100_v5": 1900, "ND96isr_H200_v5": 1850, "ND96isr_MI300X_v5": 1850,
    "NV12s_v3": 112, "NV24s_v3": 224, "NV48s_v3": 448,
    "NV6ads_A10_v5": 55, "NV12ads_A10_v5": 110, "NV18ads_A10_v5": 220, "NV36ads_A10_v5": 440, "NV36adms_A10_v5": 880,
    "NV72ads_A10_v5": 880,
}  # fmt: skip
"""GB of memory of Azure's machines with GPUs."""

AZURE_IRREGULAR = re.compile(r"E64.*_v4|(D64|E32)p\w*_v5|EC32.*_v5|FX96.*_v2")
"""Sizes at the end of a family that have less than the family's constant."""


def azure(name: str) -> Size:
    """(vCPUs, memory_gb, arch) of ``Standard_D4s_v5`` and its like."""
    found = AZURE.fullmatch(name)
    if found is None:
        return nan, nan, "x86"
    family, features, version = found["family"], found["features"], int(found["version"] or 1)
    arch = "arm" if "p" in features and family in ("B", "D", "E") else "x86"
    short = name.removeprefix("Standard_")
    if found["gpu"] or family[0] == "N":
        return float(found["vcpus"]), float(AZURE_GPU_MEMORY.get(short, nan)), arch
    vcpus = float(found["active"] or found["vcpus"])
    if AZURE_IRREGULAR.fullmatch(short):
        return vcpus, nan, arch
    # A constrained machine (8-4) has the memory of the whole one.
    whole = float(found["vcpus"])
    if family == "D" and version >= 3:
        return vcpus, whole * (2.0 if "l" in features else 4.0), arch
    if family in ("E", "EC") and version >= 3 and whole <= 64 and (family, version) != ("E", 3):
        return vcpus, whole * 8.0, arch
    if family == "F" and version in (1, 2):
        return vcpus, whole * 2.0, arch
    if family == "F" and version >= 6:
        return vcpus, whole * (2.0 if "l" in features else 8.0 if "m" in features else 4.0), arch
    if family == "FX":
        return vcpus, whole * 21.0, arch
    if family == "L":
        return vcpus, whole * 8.0, arch
    if family == "DC" and version >= 5:
        return vcpus, whole * 4.0, arch
    if family in ("D", "DS", "A", "G", "GS", "H"):
        return nan, nan, arch  # the figure counts sizes
    return vcpus, nan, arch


GCP = re.compile(r"(?P<family>[a-z]\d+[a-z]?)-(?P<kind>[a-z]+)-(?P<figure>\d+)(?P<g>g?)(?:-(?:lssd|metal|\w*lssd))*")
GCP_GB_PER_VCPU = {
    "standard": {
        **dict.fromkeys(("e2", "n2", "n2d", "t2d", "t2a", "c2", "c2d", "c3", "c3d", "n4", "n4a", "n4d", "c4a", "g2", "h3"), 4.0),
        **dict.fromkeys(("n1", "c4", "g4"), 3.75),
    },
    "highmem": {
        **dict.fromkeys(("e2", "n2", "n2d", "c2d", "c3", "c3d", "n4", "n4a", "n4d", "c4a"), 8.0),
        "n1": 6.5,
        "c4": 7.75,
    },
    "highcpu": {
        **dict.fromkeys(("e2", "n2", "n2d"), 1.0),
        **dict.fromkeys(("c2d", "c3", "n4", "n4a", "n4d", "c4a", "c4"), 2.0),
        "n1": 0.9,
    },
}
GCP_BY_GPUS = {
    ("a2", "highgpu"): (12.0, 85.0), ("a2", "ultragpu"): (12.0, 170.0), ("a3", "highgpu"): (26.0, 234.0),
    ("a3", "megagpu"): (26.0, 234.0),
}  # fmt: skip
"""(vCPUs, GB) for each GPU."""
GCP_NAMED = {
    "a2-megagpu-16g": (96.0, 1360.0), "e2-micro": (2.0, 1.0), "e2-small": (2.0, 2.0), "e2-medium": (2.0, 4.0),
    "c4-standard-2": (2.0, 7.0), "c4-highmem-2": (2.0, 15.0), "n2-highmem-128": (128.0, 864.0),
    "c3-highcpu-192-metal": (192.0, 512.0), "f1-micro": (1.0, 0.6), "g1-small": (1.0, 1.7),
}  # fmt: skip


def gcp(name: str) -> Size:
    """(vCPUs, memory_gb, arch) of ``n2-standard-8`` and its like."""
    if name in GCP_NAMED:
        return *GCP_NAMED[name], "x86"
    found = GCP.fullmatch(name)
    if found is None:
        return nan, nan, "x86"
    family, kind, figure = found["family"], found["kind"], float(found["figure"])
    if found["g"]:
        vcpus, memory = GCP_BY_GPUS.get((family, kind), (nan, nan))
        return vcpus * figure, memory * figure, "x86"
    arch = "arm" if family in ("t2a", "c4a", "n4a") else "x86"
    return figure, figure * GCP_GB_PER_VCPU.get(kind, {}).get(family, nan), arch
