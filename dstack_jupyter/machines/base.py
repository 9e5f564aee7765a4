"""The one protocol between the engine and a machine, whoever rented it (D2).

The engine calls these on its loop. Nothing here blocks the loop: an implementation runs what blocks in threads. Every method
is idempotent for a given attempt, since the engine repeats what it cannot prove to have happened.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

LOG_LIMIT = 5 * 1024**3
"""Bytes of log that are kept of one attempt; what comes after is counted, discarded and stored as one gap."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar file on the engine's side and where it is unpacked, relative to the job's working folder."""

    path: Path
    dest: str


@dataclass(frozen=True, slots=True)
class Container:
    """The container that a job runs in. ``command`` is what runs where the job has no commands: the image's own if empty.

    ``ports`` are published on the host's loopback; ``host_network`` shares the host's network instead (nodes of one run).
    ``password`` is handed to Docker for the pull and kept nowhere. Sizes are bytes, 0 is Docker's default.
    """

    image: str
    entrypoint: str = ""
    user: str = ""
    privileged: bool = False
    username: str = ""
    password: str = field(default="", repr=False)
    shm_size: int = 0
    cpus: float = 0.0
    memory: int = 0
    gpu_vendor: str = ""
    gpus: tuple[int, ...] = ()
    ports: tuple[int, ...] = ()
    host_network: bool = False
    volumes: tuple[tuple[str, str], ...] = ()
    """(path on the host, path in the container)."""
    hosts: tuple[tuple[str, str], ...] = ()
    """(name, address) of each node, for the container's hosts file."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What one attempt runs. ``env`` holds what the job sees beyond the machine's own clean environment.

    Durations are seconds; ``max_duration`` 0 is none, ``stop_duration`` 0 waits for ever before it kills. ``container`` None is
    a process. ``files`` are small texts in the job's folder, by name; ``prepare`` is sh of ours that runs before the commands,
    with the job's folder in ``$folder``. ``argv`` runs in the place of the shell and its commands.
    """

    attempt_id: str
    commands: list[str]
    env: dict[str, str]
    shell: str = "/bin/bash"
    working_dir: str = ""
    archives: list[Archive] = field(default_factory=list)
    max_duration: int = 0
    stop_duration: int = 300
    log_limit: int = LOG_LIMIT
    container: Container | None = None
    files: dict[str, str] = field(default_factory=dict)
    prepare: str = ""
    argv: tuple[str, ...] = ()


class DroppedReason(StrEnum):
    """Why a machine could not keep all that a job printed."""

    NONE = ""
    LOG_LIMIT = "log_limit"
    DISK_FULL = "disk_full"

    @classmethod
    def read(cls, text: str) -> DroppedReason:
        """What the words in a job folder's ``dropped`` mean: those of whatever wrote its log last, when it no longer could."""
        if not text:
            return cls.NONE
        return cls.LOG_LIMIT if "too large" in text.lower() else cls.DISK_FULL


class Phase(StrEnum):
    """What a launch that has returned still does."""

    SENDING = "sending"
    PULLING = "pulling"
    UNPACKING = "unpacking"


@dataclass(frozen=True, slots=True)
class Preparing:
    """A launch that is under way; ``message`` tells people of it."""

    phase: Phase
    message: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended. ``cause`` is '' when it ended by itself, else stopped, aborted or max_duration.

    ``dropped`` counts the bytes of its log that were not kept.
    """

    exit_code: int
    cause: str = ""
    dropped: int = 0
    dropped_reason: DroppedReason = DroppedReason.NONE


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a look at a job shows, and the next bytes of its log.

    ``started`` is false where no supervisor ever began; ``ending`` is set only together with the last bytes of the log:
    ``data`` empty or not, nothing follows. ``lost`` says why a job that was started can never tell how it ended, and
    ``interrupted`` that its machine went down under it. ``preparing`` says what a launch that has returned still does (a pull);
    ``refused`` why it came to nothing.
    """

    started: bool
    data: bytes = b""
    ending: Ending | None = None
    lost: str = ""
    interrupted: bool = False
    preparing: Preparing | None = None
    refused: str = ""


class Machine(Protocol):
    """One machine that runs jobs. Raises models.errors only."""

    async def launch(self, spec: JobSpec) -> None:
        """Make the job folder and start its supervisor, detached from us. A second call for the attempt changes nothing.

        Called by the attempt reconciler. May return while it still prepares: ``look`` tells. Raises StorageFull, Unreachable,
        ConfigurationError (what was asked for cannot run here).
        """

    async def look(self, attempt_id: str, offset: int, limit: int) -> JobReport:
        """The state of a job and up to ``limit`` bytes of its log from ``offset``. Called by the attempt reconciler."""

    async def end(self, attempt_id: str, *, abort: bool) -> bool:
        """Ask a job to stop, or kill it; ``look`` tells when it has ended. False: it cannot be told yet, ask again.

        A job that was launched but has not begun never will.
        """

    def watch(self, attempt_id: str, changed: Callable[[], None]) -> None:
        """Call ``changed`` on the loop whenever the job's log or state may have changed, until ``unwatch``."""

    def unwatch(self, attempt_id: str) -> None:
        """End a ``watch``; unknown attempts are fine."""

    def pull(self, attempt_id: str, path: str) -> AsyncIterator[bytes]:
        """A tar stream of ``path`` in the job's working folder. Raises NotFound, ConfigurationError before the first byte."""

    async def ports(self, attempt_id: str) -> dict[int, int]:
        """For each published port of a job the port of the machine's loopback; a port that is not there is its own."""

    async def utilization(self, vendor: str, gpus: tuple[int, ...]) -> list[int]:
        """How busy each of these GPUs is at the moment, in percent; empty where that cannot be told."""

    async def connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to a port of the machine's loopback. Raises Unreachable."""

    async def finish(self, attempt_id: str) -> None:
        """Let go of what an ended job holds beyond its folder, and kill what is alive of one that never said how it ended."""

    async def remove(self, attempt_id: str) -> None:
        """Delete the job folder of an ended job."""

    async def close(self) -> None:
        """Let go of watches and connections; jobs go on."""
