"""A job folder as a tar stream: what launch.sh unpacks on a host. Blocks; the stream is made in a thread."""

from __future__ import annotations

import asyncio
import io
import os
import shlex
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

from .. import job_folder
from ..base import JobSpec

PIECE = 1 << 18


def unpack_script(spec: JobSpec) -> str:
    """Lines of sh that put the archives of a job where they belong, run once in its folder."""
    lines = ["set -e"]
    for number, archive in enumerate(spec.archives):
        dest = archive.dest if os.path.isabs(archive.dest) or archive.dest.startswith("~") else f"work/{archive.dest}"
        # A tilde must stay bare to mean the home there.
        where = '"$HOME"/' + shlex.quote(dest[2:]) if dest.startswith("~/") else shlex.quote(dest)
        lines.append(f"mkdir -p {where} && tar -xf archive-{number}.tar -C {where} && rm archive-{number}.tar")
    if spec.working_dir and not os.path.isabs(spec.working_dir):
        lines.append(f"mkdir -p work/{shlex.quote(spec.working_dir)}")
    return "\n".join([*lines, ""])


def texts(spec: JobSpec, folder: str, work: str, env: dict[str, str]) -> dict[str, str]:
    """The small files of a job folder. ``folder`` and ``work`` are it and its working folder as the job sees them."""
    working_dir = spec.working_dir if os.path.isabs(spec.working_dir) else os.path.join(work, spec.working_dir).rstrip("/")
    # In the job's own session, so that what it starts ends with the job.
    prepare = f'folder={shlex.quote(folder)}\n. "$folder/prepare.sh"\n' if spec.prepare else ""
    contents = {
        "env.sh": job_folder.env_script({**env, **spec.env, "DSTACK_WORKING_DIR": working_dir}),
        "commands": job_folder.commands_file(prepare + job_folder.command_script(spec.commands)),
        "job.sh": job_folder.supervisor_script(),
        "unpack.sh": unpack_script(spec),
        **spec.files,
    }
    if spec.prepare:
        contents["prepare.sh"] = spec.prepare
    return contents


async def stream(files: dict[str, str], archives: list[Path]) -> AsyncIterator[bytes]:
    """The tar stream of small texts and of archives as they are."""
    reader, writer = os.pipe()
    packing = asyncio.ensure_future(asyncio.to_thread(_pack, files, archives, writer))
    try:
        while piece := await asyncio.to_thread(os.read, reader, PIECE):
            yield piece
    finally:
        os.close(reader)
        await packing


def _pack(files: dict[str, str], archives: list[Path], descriptor: int) -> None:
    try:
        with os.fdopen(descriptor, "wb") as pipe, tarfile.open(fileobj=pipe, mode="w|") as tar:
            for name, text in files.items():
                data = text.encode("utf-8", "surrogateescape")
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(data), 0o600
                tar.addfile(entry, io.BytesIO(data))
            for number, path in enumerate(archives):
                with path.open("rb") as file:
                    entry = tarfile.TarInfo(f"archive-{number}.tar")
                    entry.size, entry.mode = path.stat().st_size, 0o600
                    tar.addfile(entry, file)
    except BrokenPipeError:
        pass  # the reader went away
