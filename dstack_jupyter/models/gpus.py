"""Names of GPUs as offers use them, with the memory that each is sold with, in GB."""

from __future__ import annotations

import difflib
import re

_NVIDIA = """
A2:16 A10:24 A10G:24 A16:16 A30:24 A40:48 A100:40,80 A4000:16 A4500:20 A5000:24 A6000:48 B200:180,192 B300:270,288
GB200:186 GH200:96,144 GTX1080Ti:11 H100:80 H100NVL:94 H200:141 H200NVL:141 K80:12 L4:24 L40:48 L40S:48 M60:8 P4:8 P40:24
P100:12,16
RTX2000Ada:16 RTX2080Ti:11 RTX3060:12 RTX3070:8 RTX3080:10,12 RTX3080Ti:12 RTX3090:24 RTX3090Ti:24 RTX4000Ada:20
RTX4060:8 RTX4060Ti:8,16 RTX4070:12 RTX4070Ti:12 RTX4080:16 RTX4090:24 RTX4500Ada:24 RTX5000Ada:32 RTX5060Ti:8,16 RTX5070:12
RTX5070Ti:16 RTX5080:16 RTX5090:32 RTX6000:24 RTX6000Ada:48 RTX8000:48 RTXPRO6000:96 T4:16 T4G:16 V100:16,32
"""
_AMD = """
MI100:32 MI210:64 MI250X:128 MI300A:128 MI300X:192 MI308X:192 MI325X:256 MI350X:288 MI355X:288 RX7900XT:20 RX7900XTX:24 V520:8
"""
_INTEL = "Gaudi:32 Gaudi2:96 Gaudi3:128"
_GOOGLE = "v2 v3 v4 v5litepod v5p v6e"

KNOWN: dict[str, tuple[float, ...]] = {
    name: tuple(float(size) for size in sizes.split(",") if size)
    for name, _, sizes in (entry.partition(":") for entry in f"{_NVIDIA} {_AMD} {_INTEL} {_GOOGLE}".split())
}
_BY_LOWER = {name.lower(): name for name in KNOWN}

_CAPABILITIES = """
3.7:K80 5.2:M60 6.0:P100 6.1:GTX1080Ti,P4,P40 7.0:V100 7.5:T4,T4G,RTX2080Ti,RTX6000,RTX8000 8.0:A30,A100
8.6:A2,A10,A10G,A16,A40,A4000,A4500,A5000,A6000,RTX3060,RTX3070,RTX3080,RTX3080Ti,RTX3090,RTX3090Ti
8.9:L4,L40,L40S,RTX2000Ada,RTX4000Ada,RTX4500Ada,RTX5000Ada,RTX6000Ada,RTX4060,RTX4060Ti,RTX4070,RTX4070Ti,RTX4080,RTX4090
9.0:GH200,H100,H100NVL,H200,H200NVL 10.0:B200,GB200 10.3:B300
12.0:RTX5060Ti,RTX5070,RTX5070Ti,RTX5080,RTX5090,RTXPRO6000
"""
_CAPABLE: dict[str, tuple[int, int]] = {
    name.lower(): (int(major), int(minor))
    for version, _, names in (entry.partition(":") for entry in _CAPABILITIES.split())
    for major, _, minor in [version.partition(".")]
    for name in names.split(",")
}

SNAP = 0.07
"""A driver reports a little less than what is on the box (81559 MiB of an 80 GB H100, 15360 of a 16 GB T4)."""

_VENDOR_WORDS = frozenset({"nvidia", "amd", "ati", "geforce", "tesla", "quadro", "instinct", "radeon", "graphics"})
_FORM = re.compile(
    r"\d+GB?|\d+e|DGXS|FHHL|PG\d+|SXM\d*|PCIE|HBM\w*|OAM|GENERATION|EDITION|SERVER|WORKSTATION|BLACKWELL|MAX|Q|[(/\[].*",
    re.IGNORECASE,
)
"""What follows the name: memory, form factor, edition."""


_SLICE = re.compile(r"\bMIG\s+(\d+g\.\d+gb)\b", re.IGNORECASE)


def short_name(product: str) -> str:
    """The name that offers use: ``NVIDIA A100-SXM4-80GB`` → ``A100``, ``NVIDIA GeForce RTX 4090`` → ``RTX4090``.

    A slice is no whole GPU, and says so: ``A100 MIG 1g.10gb``.
    """
    part = _SLICE.search(product)
    return _card(product[: part.start()]) + f" MIG {part[1].lower()}" if part else _card(product)


def _card(product: str) -> str:
    kept: list[str] = []
    for word in re.split(r"[\s-]+", product.strip()):
        if word.lower() in _VENDOR_WORDS:
            continue
        if kept and _FORM.fullmatch(word):
            break
        kept.append(word)
    name = "".join(kept) or product.strip()
    # The professional cards are sold as `A6000`, and reported as `RTX A6000`.
    return _BY_LOWER.get(name.lower()) or _BY_LOWER.get(name.lower().removeprefix("rtx"), name)


def sold_memory(name: str, reported_gb: float) -> float:
    """The size that a GPU is sold with, where the reported one is within 7 % of it; else what was reported."""
    sizes = KNOWN.get(name, ())
    nearest = min(sizes, key=lambda size: abs(size - reported_gb), default=0.0)
    return nearest if nearest and abs(nearest - reported_gb) <= SNAP * nearest else round(reported_gb, 1)


def capability(name: str) -> tuple[int, int] | None:
    """The CUDA compute capability of a GPU, (major, minor); None for one that has none or is not known."""
    return _CAPABLE.get(name.lower())


def near_names(name: str) -> list[str]:
    """Known names that look like this one; none for a known name."""
    if name.lower() in _BY_LOWER:
        return []
    return [_BY_LOWER[match] for match in difflib.get_close_matches(name.lower(), _BY_LOWER, 3, cutoff=0.5)]
