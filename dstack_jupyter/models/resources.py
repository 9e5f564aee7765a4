"""What a run asks of a machine: memory, ranges, CPU and GPU specifications, in the grammars that dstack users know.

Facts: reference ``configuration`` §4.4. Memory is float GB (1024³ bytes); ``N`` in a range means exactly N.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_serializer, field_validator, model_validator

from .base import Model

UNITS = {"MB": 1 / 1024, "GB": 1.0, "TB": 1024.0}
MEMORY = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(MB|GB|TB)?\s*", re.IGNORECASE)

VENDORS = {
    "nvidia": "nvidia",
    "amd": "amd",
    "google": "google",
    "tpu": "google",
    "intel": "intel",
    "tenstorrent": "tenstorrent",
    "tt": "tenstorrent",
}
ARCHES = ("x86", "arm")


def parse_memory(value: object) -> float:
    """GB as float from a number (GB) or text such as ``512MB``. Raises ValueError."""
    match = MEMORY.fullmatch(value) if isinstance(value, str) else None
    try:
        if match is not None:
            size = float(match[1]) * UNITS[(match[2] or "GB").upper()]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            size = float(value)
        else:
            raise ValueError("expected memory such as 24GB, 512MB or 1.5TB")
    except OverflowError:
        size = math.inf
    if not 0 <= size < math.inf:
        raise ValueError("memory cannot be negative or infinite")
    return size


def parse_count(value: object) -> int:
    """A whole number from an int or its text. Raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*", value):
        return int(value)
    raise ValueError("expected a whole number or a range such as 2..8")


def _range(value: object, parse: Any) -> dict[str, Any]:
    """{min, max} from ``N``, ``N..``, ``..M``, ``N..M`` or {min, max}. Raises ValueError."""
    if isinstance(value, dict):
        if not set(value) <= {"min", "max"}:
            raise ValueError("expected only min and max")
        low, high = value.get("min"), value.get("max")
    elif isinstance(value, str) and ".." in value:
        low, _, high = (part.strip() for part in value.partition(".."))
        low, high = low or None, high or None
    else:
        low = high = value
    ends = {name: None if end is None else parse(end) for name, end in (("min", low), ("max", high))}
    if ends["min"] is None and ends["max"] is None:
        raise ValueError("a range needs at least one end, such as 2.. or ..8")
    if ends["min"] is not None and ends["max"] is not None and ends["min"] > ends["max"]:
        raise ValueError("the range is reversed")
    return ends


class MemoryRange(Model):
    """GB from ``min`` to ``max``; None is open."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        return value if isinstance(value, MemoryRange) else _range(value, parse_memory)


class CountRange(Model):
    """Whole numbers from ``min`` to ``max``; None is open."""

    min: int | None = None
    max: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        return value if isinstance(value, CountRange) else _range(value, parse_count)


class CPU(Model):
    """``[arch:]count``, tokens in any order: ``4``, ``2..``, ``arm:8``."""

    arch: Literal["x86", "arm"] | None = None
    count: CountRange = CountRange(min=2)

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if isinstance(value, CPU) or (isinstance(value, dict) and not (value and set(value) <= {"min", "max"})):
            return value
        if not isinstance(value, str):
            return {"count": value}
        fields: dict[str, Any] = {}
        for token in value.split(":"):
            key = "arch" if token.strip().lower() in ARCHES else "count"
            if not token.strip() or key in fields:
                raise ValueError("expected [arch:]count, such as arm:8 or 4..")
            fields[key] = token.strip().lower()
        return fields


def _gpu_tokens(text: str) -> dict[str, Any]:
    """The parts of a GPU specification, each kind at most once. Raises ValueError."""
    fields: dict[str, Any] = {}
    for raw in text.split(":"):
        token = raw.strip()
        if not token:
            raise ValueError("an empty part in the GPU specification")
        if token.lower() in VENDORS:
            key = "vendor"
        elif token[0].isalpha():
            key = "name"
        else:
            key = "memory" if re.search(r"[A-Za-z]", token) else "count"
        if key in fields:
            raise ValueError(f"the GPU's {key} is given twice")
        fields[key] = token
    return fields


def _names(value: object) -> object:
    """Names from a comma list. Raises ValueError for an empty one."""
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if isinstance(names, list) and not all(names):
        raise ValueError("an empty name in the list of GPUs")
    return names


class GPU(Model):
    """``[vendor:][name,…:][memory:][count]``, tokens in any order: ``A100:80GB:2``, ``24GB..``, ``H100:8``."""

    vendor: Literal["nvidia", "amd", "google", "intel", "tenstorrent"] | None = None
    name: list[str] | None = None
    memory: MemoryRange | None = None
    count: CountRange = CountRange(min=1)
    total_memory: MemoryRange | None = None
    compute_capability: tuple[int, int] | None = None

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if isinstance(value, str):
            return _gpu_tokens(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return {"count": value}
        return value

    @field_validator("vendor", mode="before")
    @classmethod
    def _vendor(cls, value: object) -> object:
        return VENDORS.get(value.lower(), value) if isinstance(value, str) else value

    @field_validator("name", mode="before")
    @classmethod
    def _name(cls, value: object) -> object:
        return _names(value)

    @field_validator("compute_capability", mode="before")
    @classmethod
    def _capability(cls, value: object) -> object:
        if isinstance(value, str | int | float):
            match = re.fullmatch(r"(\d+)\.(\d+)", str(value))
            if match is None:
                raise ValueError("expected a compute capability such as 7.5")
            return int(match[1]), int(match[2])
        return value

    @field_serializer("compute_capability", when_used="json")
    def _capability_text(self, value: tuple[int, int] | None) -> str | None:
        return None if value is None else f"{value[0]}.{value[1]}"


class Disk(Model):
    """GB of disk: a size or range, or {size: …}."""

    size: MemoryRange = MemoryRange(min=100)

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        if isinstance(value, Disk) or (isinstance(value, dict) and (not value or "size" in value)):
            return value
        return {"size": value}


Memory = Annotated[float, BeforeValidator(parse_memory), Field(ge=0)]


class Resources(Model):
    """``resources:`` of a run. The defaults of cpu, memory and disk do not filter the user's own machines: ``model_fields_set``
    tells what was asked for (docs/decisions.md, capacity)."""

    cpu: CPU = CPU()
    memory: MemoryRange = MemoryRange(min=8)
    disk: Disk = Disk()
    gpu: GPU | None = None
    shm_size: Memory | None = None
