"""A job whose folder somebody removed: lost and told so, never run a second time, nothing of it lives on."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.states import RunState
from tests.engine.test_engine import apply, finished, until


@pytest.fixture
async def engine(state: Home) -> AsyncIterator[Engine]:
    found = Engine(state)
    await found.start()
    yield found
    await found.stop()


def alive(number: str) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("what", ["its folder", "all folders", "its folder, while no engine runs"])
async def test_a_job_whose_folder_was_removed_is_lost_and_ends(engine: Engine, state: Home, tmp_path: Path, what: str) -> None:
    run = await apply(engine, f"echo $$ >> {tmp_path}/count; setsid sleep 600 & echo $! > {tmp_path}/inner; echo up; sleep 600")
    await until(engine, run.id, b"up\n")
    attempt = (await engine.service.run(run.id, project="main")).attempts[-1].id
    if what == "its folder, while no engine runs":
        await engine.stop()
    shutil.rmtree(state.jobs / attempt if "its" in what else state.jobs)
    if what == "its folder, while no engine runs":
        engine = Engine(state)
        await engine.start()
    view, log = await finished(engine, run.id)
    assert (view.state, log) == (RunState.FAILED, b"up\n")
    assert "somebody removed the job's folder" in view.message
    (number,) = (tmp_path / "count").read_text().split()
    async with asyncio.timeout(20):
        while alive(number) or alive((tmp_path / "inner").read_text().strip()):
            await asyncio.sleep(0.05)
    if what == "its folder, while no engine runs":
        await engine.stop()
