"""``type: volume``. The seed era has one model for all backends, the newer one a union: here the keys of both.

Facts: reference ``configuration`` §1.1, §4.3.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from .base import Model
from .configurations import RUN_NAME
from .durations import IdleDuration
from .references import Tags
from .resources import Memory

OWN_KEYS = {
    "claim_name": ("kubernetes",),
    "storage_class_name": ("kubernetes",),
    "access_modes": ("kubernetes",),
    "read_only": ("kubernetes",),
}
"""Keys that only some backends have."""
AccessMode = Literal["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]


class VolumeConfiguration(Model):
    """``type: volume``: a disk that outlives runs. ``size`` is GB."""

    type: Literal["volume"] = "volume"
    name: str | None = None
    backend: str
    region: str | None = None
    availability_zone: str | None = None
    size: Memory | None = None
    volume_id: str | None = None
    auto_cleanup_duration: IdleDuration = None
    tags: Tags | None = None
    claim_name: str | None = None
    storage_class_name: str | None = None
    access_modes: list[AccessMode] = ["ReadWriteOnce"]
    read_only: bool = False

    @field_validator("name")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        if value is not None and not RUN_NAME.fullmatch(value):
            raise ValueError("a volume's name has 2 to 41 of a-z, 0-9 and -, and begins with a letter")
        return value

    @model_validator(mode="after")
    def _together(self) -> Self:
        strange = [key for key, owners in OWN_KEYS.items() if key in self.model_fields_set and self.backend not in owners]
        if strange:
            raise ValueError(f"{strange[0]} is a key of {' and '.join(OWN_KEYS[strange[0]])} volumes")
        if self.backend == "kubernetes":
            if self.size is None and self.claim_name is None:
                raise ValueError("either size or claim_name is needed")
            return self
        if self.region is None and self.backend not in ("daytona", "lium"):
            raise ValueError("region is needed")
        if self.size is None and self.volume_id is None:
            raise ValueError("either size or volume_id is needed")
        return self

    def given(self) -> dict[str, Any]:
        """What the user gave, as JSON."""
        return {**self.model_dump(mode="json", exclude_unset=True), "type": self.type}
