"""A job folder as a tar stream: what launch.sh unpacks on a host. Blocks; the stream is made in a thread."""

from __future__ import annotations

import asyncio
import io
import os
import posixpath
import shlex
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

from .. import job_folder
from ..base import JobSpec

PIECE = 1 << 18


def unpack_script(spec: JobSpec, work: str) -> str:
    """Lines of sh that put the archives of a job where they belong, run once in its folder; ``work`` is its working folder.

    On the host for a process. In the container, by the job's own user, for a container: what the file names is there, and what
    lands is that user's.
    """
    lines = ["set -e"]
    if spec.archives:
        lines += UNPACK.splitlines()
    for number, archive in enumerate(spec.archives):
        lines.append(f"unpack archive-{number}.tar {at_home(archive.dest, work)}")
    if spec.working_dir and not spec.working_dir.startswith(("/", "~")):
        lines.append(f"mkdir -p {at_home(spec.working_dir, work)}")
    return "\n".join([*lines, ""])


UNPACK = """\
unpack() {
    mkdir -p "$2"
    if command -v tar >/dev/null; then
        tar -xpf "$1" -C "$2"
    elif command -v python3 >/dev/null; then
        python3 -m tarfile -e "$1" "$2"
    else
        echo "files and repos need tar or python3 here, and there is neither" >&2
        return 75
    fi
    rm -f "$1"
}"""


def at_home(path: str, work: str) -> str:
    """A path of a configuration as a word of sh: relative to the working folder, ``~`` in the home of whoever runs it."""
    if path == "~":
        return '"$HOME"'
    if path.startswith("~/"):
        return '"$HOME"/' + shlex.quote(path[2:])
    return shlex.quote(posixpath.join(work, path))


def texts(spec: JobSpec, folder: str, work: str, env: dict[str, str]) -> dict[str, str]:
    """The small files of a job folder. ``folder`` and ``work`` are it and its working folder as the job sees them."""
    # In the job's own session, so that what it starts ends with the job.
    prepare = f'folder={shlex.quote(folder)}\n. "$folder/prepare.sh"\n' if spec.prepare else ""
    contents = {
        "env.sh": job_folder.env_script({**env, **spec.env})
        + f"export DSTACK_WORKING_DIR={at_home(spec.working_dir, work) if spec.working_dir else shlex.quote(work)}\n",
        "commands": job_folder.commands_file(spec, prepare),
        "job.sh": job_folder.supervisor_script(),
        "unpack.sh": unpack_script(spec, work),
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
