"""A disk that is really full (a small tmpfs): one clear message, and everything goes on when there is room again."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.models.errors import StorageFull
from dstack_jupyter.models.frames import LogFrame, RunFrame
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.states import RunState
from tests.engine.test_engine import apply, finished, until


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Home]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        assert not os.environ.get("CI"), "CI must be able to mount a tmpfs"
        pytest.skip("needs the right to mount a tmpfs")
    yield Home(folder / "state")
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(home: Home) -> Path:
    """Take all the room that is left."""
    ballast = home.root.parent / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return ballast


async def test_apply_on_a_full_disk_says_so_and_works_when_there_is_room(small: Home) -> None:
    engine = Engine(small)
    await engine.start()
    await finished(engine, (await apply(engine, "true")).id)
    ballast = fill(small)
    with pytest.raises(StorageFull, match="is full") as caught:
        for _ in range(200):  # what is left in the database's own pages takes some
            await apply(engine, "true", env={"PADDING": "x" * 4000})
    assert "free some disk space" in caught.value.hint
    ballast.unlink()
    view, log = await finished(engine, (await apply(engine, "echo room")).id)
    assert (view.state, log) == (RunState.DONE, b"room\n")
    for view in await engine.service.runs(project="main"):
        await engine.service.stop(view.id, project="main", abort=True, user="test")
        await finished(engine, view.id)
    await engine.stop()


async def test_a_disk_that_fills_up_during_a_run_loses_no_byte_of_its_log(small: Home, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    engine = Engine(small)
    await engine.start()
    run = await apply(engine, f"echo begun; until [ -e {gate} ]; do sleep 0.02; done; seq 20000")
    await until(engine, run.id, b"begun\n")
    # The job's log finds room, the store's copy of it does not.
    reserve = small.root.parent / "reserve"
    reserve.write_bytes(bytes(200 * 1024))
    ballast = fill(small)
    reserve.unlink()
    gate.touch()
    log, storage = b"", False
    async with asyncio.timeout(60):
        async for frame in engine.service.stream(run.id, project="main"):
            if isinstance(frame, LogFrame):
                assert frame.offset == len(log)
                log += base64.b64decode(frame.data)
            elif isinstance(frame, RunFrame) and any(c.type == "storage" for c in frame.run.conditions):
                storage = True
                ballast.unlink(missing_ok=True)
    await engine.stop()
    assert storage, "the disk was never full: the test has to be made smaller"
    assert log == b"begun\n" + b"".join(b"%d\n" % number for number in range(1, 20001))
