"""``type: slurm``: newer than the backends page, understood so that its configurations parse.

Facts: reference ``configuration`` §2.2.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ...models.base import Model
from ...models.secret import Secret
from ..config.base import BackendConfig, Filename, read_credentials


class PrivateKey(Model):
    path: Filename = None
    content: Secret | None = None

    @model_validator(mode="after")
    def _content(self) -> Self:
        if not self.content:
            if self.path is None:
                raise ValueError("either path or content is needed")
            self.__dict__["content"] = Secret(read_credentials(self.path, private_key=True))
        return self


class GPUPartition(Model):
    """``gpu`` is ``[vendor:]name[:memory]``."""

    gpu: str
    partitions: list[str]


class Cluster(Model):
    """A login node; ``name`` is its region."""

    name: str
    hostname: str
    port: int = Field(default=22, ge=1, le=65535)
    user: str
    private_key: PrivateKey
    gpu_partitions: list[GPUPartition] | None = None
    cpu_partitions: list[str] | None = None


class SlurmConfig(BackendConfig):
    """``type: slurm``."""

    type: Literal["slurm"]
    clusters: list[Cluster] = Field(min_length=1)
