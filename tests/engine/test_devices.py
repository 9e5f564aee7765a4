"""Jobs are asked which GPUs they see, on a machine whose devices are not all alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.models.home import Home
from tests.engine.test_engine import apply, finished, until
from tests.machines.test_facts import ROWS, tool


async def test_jobs_see_the_devices_that_fit_and_no_others(state: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tools").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'tools'}:/usr/bin:/bin")
    tool(tmp_path / "tools", "nvidia-smi", f"printf '{ROWS}'")
    engine = Engine(state)
    await engine.start()
    try:
        three = await apply(
            engine, "echo $CUDA_VISIBLE_DEVICES; until [ -e gate ]; do sleep 0.05; done", resources={"gpu": "A100:3"}
        )
        await until(engine, three.id, b"0,1,2\n")
        one = await apply(engine, "echo $CUDA_VISIBLE_DEVICES", resources={"gpu": "A100:80GB:1"})
        assert (await finished(engine, one.id))[1] == b"4\n"
        attempt = (await engine.service.run(three.id, project="main")).attempts[-1].id
        (state.jobs / attempt / "work/gate").touch()
        await finished(engine, three.id)
        four = await apply(engine, "echo $CUDA_VISIBLE_DEVICES", resources={"gpu": "A100:4"})
        assert (await finished(engine, four.id))[1] == b"0,1,2,4\n"
    finally:
        await engine.stop()
