"""This machine as a place to run jobs: the process launcher, and a reader that the kernel wakes (no polling).

A supervisor is a child of ours while we live (it must be collected) but never depends on us: own session, no shared
descriptors, everything it has to say in its folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import sys
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ..models.errors import ConfigurationError, NotFound, StorageFull, Unreachable
from ..processes import ended, spawn_detached
from . import job_folder
from .base import JobReport, JobSpec
from .facts import run_tool
from .gpu_tools import parse_utilization
from .watch import FolderWatch

Result = TypeVar("Result")

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
INHERITED = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
MARK = "DSTACK_JUPYTER_ATTEMPT"
"""A variable of all that a job starts: it can be found without its folder."""
EXIT_NO_SPACE = 73
"""The supervisor's exit code when it could not reserve room for its last words."""
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def clean_environment(python: str = "") -> dict[str, str]:
    """The environment that a job on this machine starts from: who and where the user is, and PATH; nothing else of ours.

    ``python`` is the caller's interpreter: its folder comes first on PATH, so that ``python`` means the notebook's.
    """
    env = {name: os.environ[name] for name in INHERITED if name in os.environ}
    path = os.environ.get("PATH") or SYSTEM_PATH
    env["PATH"] = f"{os.path.dirname(python)}:{path}" if os.path.isabs(python) else path
    # Output goes through a pipe; without this Python would keep it back for 8 KiB.
    env["PYTHONUNBUFFERED"] = "1"
    return env


def _supervisor(folder: Path) -> int | None:
    """The pid of the folder's supervisor if that very process is alive; None otherwise."""
    try:
        pid_text, start, boot = (folder / "pid").read_text().split()
        pid = int(pid_text)
        if start == "-":  # no /proc: the pid is all there is
            os.kill(pid, 0)
            return pid
        if boot != Path("/proc/sys/kernel/random/boot_id").read_text().strip():
            return None
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        return pid if fields[19] == start and fields[0] != "Z" else None
    except (OSError, ValueError):
        return None


def _just_began(folder: Path) -> bool:
    """Whether a supervisor that is not our child may still be about to write its pid: we crashed right after starting it."""
    with contextlib.suppress(OSError):
        return not (folder / "pid").exists() and time.time() - (folder / "started").stat().st_mtime < 10
    return False


class LocalMachine:
    """``Machine`` for the computer that the engine runs on. ``jobs`` is the folder of its job folders."""

    def __init__(self, jobs: Path) -> None:
        self._jobs = jobs
        self._children: dict[str, int] = {}
        self._exits: dict[str, int] = {}
        self._spawning = threading.Lock()
        self._watch = FolderWatch()
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="dj-local")

    def _folder(self, attempt_id: str) -> Path:
        return self._jobs / attempt_id

    async def _run(self, function: Callable[..., Result], *args: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    async def launch(self, spec: JobSpec) -> None:
        await self._run(self._launch, spec)

    def _launch(self, spec: JobSpec) -> None:
        folder = self._folder(spec.attempt_id)
        if spec.container is not None:
            raise ConfigurationError("`local` runs processes only: `image` needs a host with Docker")
        if (folder / "started").exists() or self._child_runs(spec.attempt_id):
            return
        if shutil.which(spec.shell) is None:
            raise ConfigurationError(f"there is no shell {spec.shell} on this machine", hint="set `shell: sh`")
        command = ["/bin/sh", "-c", job_folder.supervisor_script(), "dj", str(folder)]
        command += [str(spec.log_limit), str(spec.max_duration), str(spec.stop_duration)]
        try:
            job_folder.write(folder, spec)
            with self._spawning:
                if not self._child_runs(spec.attempt_id) and not (folder / "started").exists():
                    self._children[spec.attempt_id] = spawn_detached(command, {"PATH": SYSTEM_PATH, MARK: spec.attempt_id})
        except OSError as error:
            if error.errno in DISK_FULL:
                raise StorageFull(
                    f"the disk that holds {self._jobs} is full", hint="free some space; the run starts by itself then"
                ) from error
            raise

    async def look(self, attempt_id: str, offset: int, limit: int) -> JobReport:
        return await self._run(self._look, attempt_id, offset, limit)

    def _look(self, attempt_id: str, offset: int, limit: int) -> JobReport:
        folder = self._folder(attempt_id)
        if not (folder / "started").exists():
            return JobReport(started=False)
        # In this order: a supervisor seen dead before `exit` was looked for has written it already, or never will.
        alive = _supervisor(folder) is not None or self._child_runs(attempt_id) or _just_began(folder)
        ending = job_folder.read_ending(folder)
        data = self._read(folder / "log", offset, limit)
        if len(data) == limit:
            return JobReport(started=True, data=data)
        if ending is not None:
            self._collect(attempt_id)
            return JobReport(started=True, data=data, ending=ending)
        return JobReport(started=True, data=data, lost="" if alive else self._why_lost(attempt_id))

    def _why_lost(self, attempt_id: str) -> str:
        self._children.pop(attempt_id, None)
        if self._exits.pop(attempt_id, None) == EXIT_NO_SPACE:
            return f"the disk that holds {self._jobs} is full: the job could not be started"
        return "the job's supervisor is gone: it was killed, or this machine was restarted"

    def _read(self, log: Path, offset: int, limit: int) -> bytes:
        try:
            descriptor = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            return os.pread(descriptor, limit, offset)
        finally:
            os.close(descriptor)

    def _child_runs(self, attempt_id: str) -> bool:
        """Whether the supervisor is our child and lives: true also before it had time to write its pid."""
        child = self._children.get(attempt_id)
        if child is None or attempt_id in self._exits:
            return False
        code = ended(child)
        if code is not None:
            self._exits[attempt_id] = code
        return code is None

    def _collect(self, attempt_id: str) -> None:
        """Wait for a supervisor that has written `exit`: its last instruction. Else it stays a zombie."""
        child = self._children.pop(attempt_id, None)
        if child is not None and self._exits.pop(attempt_id, None) is None:
            os.waitpid(child, 0)

    async def end(self, attempt_id: str, *, abort: bool) -> bool:
        return await self._run(self._end, attempt_id, signal.SIGUSR1 if abort else signal.SIGTERM)

    def _end(self, attempt_id: str, number: signal.Signals) -> bool:
        folder = self._folder(attempt_id)
        pid = _supervisor(folder)
        if pid is None:
            # Between its first breath and its pid nobody can signal a supervisor; one that is dead needs no signal.
            return (folder / "exit").exists() or not (self._child_runs(attempt_id) or _just_began(folder))
        # A pidfd means this very process or nothing, even if the pid is taken over between the look and the signal.
        with contextlib.suppress(ProcessLookupError):
            if sys.platform != "linux":
                os.kill(pid, number)
                return True
            descriptor = os.pidfd_open(pid)
            try:
                if _supervisor(folder) == pid:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)
        return True

    def watch(self, attempt_id: str, changed: Callable[[], None]) -> None:
        folder = self._folder(attempt_id)
        child = self._children.get(attempt_id)
        # A child that has just been started may not have written its pid yet.
        self._watch.add(folder, child if child is not None else _supervisor(folder), changed)

    def unwatch(self, attempt_id: str) -> None:
        self._watch.remove(self._folder(attempt_id))

    async def pull(self, attempt_id: str, path: str) -> AsyncIterator[bytes]:
        folder = self._folder(attempt_id)
        if not folder.exists():
            raise NotFound("the files of this run are gone", hint="job folders are kept for 7 days after the end of a run")
        target = await self._run(job_folder.inside, folder, path)
        reader, writer = os.pipe()
        packing = asyncio.ensure_future(self._run(_write_tar, target, writer))
        try:
            while chunk := await self._run(os.read, reader, 1 << 18):
                yield chunk
        finally:
            os.close(reader)
            await packing

    async def ports(self, attempt_id: str) -> dict[int, int]:
        return {}

    async def utilization(self, vendor: str, gpus: tuple[int, ...]) -> list[int]:
        if vendor != "nvidia" or not gpus:
            return []
        query = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", ",".join(map(str, gpus)))
        output, _, _ = await self._run(run_tool, *query)
        return parse_utilization(output)

    async def connect(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            raise Unreachable(f"nothing answers at port {port}") from error

    async def finish(self, attempt_id: str) -> None:
        """Nothing is left of an ended job but its folder. One without an ending may live on: its folder was removed, say."""
        await self._run(self._finish, attempt_id)

    def _finish(self, attempt_id: str) -> None:
        if (self._folder(attempt_id) / "exit").exists():
            return
        mark = f"{MARK}={attempt_id}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)
        self._children.pop(attempt_id, None)
        self._exits.pop(attempt_id, None)

    async def remove(self, attempt_id: str) -> None:
        await self._run(shutil.rmtree, self._folder(attempt_id), True)

    async def close(self) -> None:
        self._watch.close()
        self._threads.shutdown(wait=False)


def _write_tar(target: Path, descriptor: int) -> None:
    """Write a tar stream of ``target`` into ``descriptor`` and close it; a reader that went away ends it quietly."""
    with (
        contextlib.suppress(BrokenPipeError),
        os.fdopen(descriptor, "wb") as pipe,
        tarfile.open(fileobj=pipe, mode="w|") as tar,
    ):
        if target.is_dir():
            for entry in sorted(target.iterdir()):
                tar.add(entry, arcname=entry.name)
        else:
            tar.add(target, arcname=target.name)
