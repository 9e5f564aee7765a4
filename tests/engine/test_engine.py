"""The engine with a real store and real processes: what a user of the service sees."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import os
import signal
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.engine.names import new_id
from dstack_jupyter.engine.process.peek import store_has_unfinished
from dstack_jupyter.engine.runtime.queue import Key, Next
from dstack_jupyter.engine.service import runs
from dstack_jupyter.models.errors import ConfigurationError, Conflict, NotFound, NotSupportedYet
from dstack_jupyter.models.frames import LogFrame, RunFrame
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.runs import ApplyRequest, CodeRef, Context, PlanRequest, RunView
from dstack_jupyter.models.states import RunState


@pytest.fixture
async def engine(state: Home) -> AsyncIterator[Engine]:
    found = Engine(state)
    await found.start()
    yield found
    for view in await found.service.runs(project="main"):
        await found.service.stop(view.id, project="main", abort=True, user="test")
        await finished(found, view.id)
    await found.stop()


def request(*commands: str, **more: Any) -> ApplyRequest:
    key = more.pop("request_key", new_id())
    code = more.pop("code", [])
    configuration = {"type": "task", "commands": list(commands), **more}
    return ApplyRequest(configuration=configuration, request_key=key, code=code, context=Context(cwd="/"))


async def finished(engine: Engine, ref: str) -> tuple[RunView, bytes]:
    """Follow a run to its end: (its last view, its whole log)."""
    log = b""
    async with asyncio.timeout(30):
        async for frame in engine.service.stream(ref, project="main"):
            if isinstance(frame, LogFrame):
                assert frame.offset == len(log)
                log += base64.b64decode(frame.data)
    return frame.run, log  # type: ignore[union-attr]


async def until(engine: Engine, ref: str, text: bytes) -> None:
    """Follow a run until its log holds ``text``."""
    log = b""
    async with asyncio.timeout(30):
        async for frame in engine.service.stream(ref, project="main"):
            if isinstance(frame, LogFrame):
                log += base64.b64decode(frame.data)
                if text in log:
                    return
    raise AssertionError(f"the run ended without {text!r}: {log!r}")


async def apply(engine: Engine, *commands: str, **more: Any) -> RunView:
    return await engine.service.apply(request(*commands, **more), user="ada")


async def test_a_task_runs_and_every_byte_comes_back(engine: Engine) -> None:
    run = await apply(engine, "echo hello", "seq 100000")
    view, log = await finished(engine, run.id)
    assert (view.state, view.exit_code, view.reason) == (RunState.DONE, 0, "all_jobs_done")
    assert log == b"hello\n" + b"".join(b"%d\n" % number for number in range(1, 100001))
    assert b"".join([piece async for piece in engine.service.raw_log(run.id, project="main")]) == log
    assert b"".join([piece async for piece in engine.service.raw_log(run.id, project="main", offset=9)]) == log[9:]


async def test_states_are_seen_in_order(engine: Engine) -> None:
    run = await apply(engine, "sleep 0.3")
    states = [f.run.state async for f in engine.service.stream(run.id, project="main") if isinstance(f, RunFrame)]
    order = list(RunState)
    assert states == sorted(states, key=order.index)
    assert states[-1] is RunState.DONE


async def test_a_failing_command_fails_the_run_with_its_exit_code(engine: Engine) -> None:
    view, log = await finished(engine, (await apply(engine, "no-such-command-9 --x")).id)
    assert (view.state, view.exit_code) == (RunState.FAILED, 127)
    assert "not found" in view.message
    assert b"no-such-command-9" in log


async def test_environment_and_working_dir(engine: Engine) -> None:
    run = await apply(
        engine,
        'echo "$GREETING|$DSTACK_RUN_NAME|$DSTACK_NODES_NUM"; pwd',
        name="envy",
        env={"GREETING": "it's $HOME"},
        working_dir="sub/dir",
    )
    _, log = await finished(engine, run.id)
    first, second = log.decode().splitlines()
    assert first == "it's $HOME|envy|1"
    assert second.endswith("/work/sub/dir")


async def test_stop_ends_a_run_and_keeps_its_last_words(engine: Engine) -> None:
    """F56 dstack#4285."""
    run = await apply(engine, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    await until(engine, run.id, b"up\n")
    await engine.service.stop(run.id, project="main", abort=False, user="ada")
    view, log = await finished(engine, run.id)
    assert (view.state, view.reason) == (RunState.TERMINATED, "stopped_by_user")
    assert log.startswith(b"up\n")
    assert log.endswith(b"bye\n")


async def test_abort_ends_what_ignores_a_stop(engine: Engine) -> None:
    run = await apply(engine, "trap '' TERM; echo up; while :; do sleep 0.05; done")
    await until(engine, run.id, b"up\n")
    await engine.service.stop(run.id, project="main", abort=False, user="ada")
    await engine.service.stop(run.id, project="main", abort=True, user="ada")
    view, _ = await finished(engine, run.id)
    assert (view.state, view.reason) == (RunState.TERMINATED, "aborted_by_user")


async def test_a_stop_right_after_apply_wins(engine: Engine, tmp_path: Path) -> None:
    for _ in range(5):
        run = await apply(engine, "sleep 30")
        await engine.service.stop(run.id, project="main", abort=False, user="ada")
        view, _ = await finished(engine, run.id)
        assert view.state is RunState.TERMINATED


async def test_max_duration(engine: Engine) -> None:
    view, log = await finished(engine, (await apply(engine, "echo a; sleep 60", max_duration="1s")).id)
    assert (view.state, view.reason) == (RunState.TERMINATED, "max_duration_exceeded")
    assert log == b"a\n"


async def test_an_active_name_is_refused_and_nothing_happens_to_the_run(engine: Engine) -> None:
    run = await apply(engine, "echo up; sleep 30", name="train")
    await until(engine, "train", b"up\n")
    with pytest.raises(Conflict, match="'train' is active"):
        await apply(engine, "echo other", name="train")
    assert (await engine.service.run("train", project="main")).id == run.id


async def test_the_same_request_is_the_same_run(engine: Engine) -> None:
    same = request("echo once", request_key="k1")
    views = await asyncio.gather(*(engine.service.apply(same, user="ada") for _ in range(5)))
    assert len({view.id for view in views}) == 1
    assert len(await engine.service.runs(project="main", all=True)) == 1
    await finished(engine, views[0].id)


async def test_many_runs_at_once_on_local(engine: Engine) -> None:
    views = [await apply(engine, f"echo {number}") for number in range(20)]
    logs = [(await finished(engine, view.id))[1] for view in views]
    assert logs == [b"%d\n" % number for number in range(20)]


async def test_who_submits_more_than_the_engine_comes_to_waits_for_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the wait of each is short, whatever comes behind it. Nobody waits for ever: the engine may have a reason."""
    gate = asyncio.Event()

    async def placed(_: Key) -> Next:
        await gate.wait()
        return Next()

    engine._reconcilers["fleet"] = placed
    monkeypatch.setattr(runs, "TURN", 60.0)
    while engine._queue.waiting("fleet") < runs.BACKLOG:
        await apply(engine, "true")
    late = asyncio.create_task(apply(engine, "true"))
    before = len(await engine.service.runs(project="main"))
    assert len(await engine.service.runs(project="main")) == before and not late.done()
    gate.set()
    await late
    gate.clear()
    while engine._queue.waiting("fleet") < runs.BACKLOG:
        await apply(engine, "true")
    monkeypatch.setattr(runs, "TURN", 0.0)
    await apply(engine, "true")


async def test_code_is_there_and_results_come_back(engine: Engine, tmp_path: Path) -> None:
    archive = tmp_path / "code.tar"
    with tarfile.open(archive, "w") as tar:
        (tmp_path / "train.py").write_text("open('result.txt', 'w').write('42')")
        tar.add(tmp_path / "train.py", "train.py")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    await engine.service.store_code(sha256, archive)
    run = await apply(engine, "python3 train.py", code=[CodeRef(sha256=sha256)])
    view, log = await finished(engine, run.id)
    assert view.state is RunState.DONE, log
    tar = b"".join([chunk async for chunk in engine.service.pull(run.id, project="main", path="result.txt")])
    with tarfile.open(fileobj=io.BytesIO(tar)) as found:
        member = found.extractfile("result.txt")
        assert member is not None
        assert member.read() == b"42"
    with pytest.raises(NotFound, match="no 'nothing'") as caught:
        [chunk async for chunk in engine.service.pull(run.id, project="main", path="nothing")]
    assert "result.txt" in caught.value.hint


async def test_code_that_was_not_uploaded_is_refused(engine: Engine) -> None:
    with pytest.raises(ConfigurationError, match="not uploaded"):
        await apply(engine, "true", code=[CodeRef(sha256="0" * 64)])


async def test_what_is_not_built_is_refused_by_name(engine: Engine) -> None:
    with pytest.raises(NotSupportedYet, match="python"):
        await apply(engine, "true", python="3.12")
    with pytest.raises(NotSupportedYet, match="service"):
        await engine.service.plan(PlanRequest(configuration={"type": "service", "commands": ["serve"], "port": 80}))
    with pytest.raises(ConfigurationError):
        await engine.service.plan(PlanRequest(configuration={"type": "task", "resouces": {}}))


async def test_a_plan_says_price_and_guard_and_changes_nothing(engine: Engine) -> None:
    plan = await engine.service.plan(PlanRequest(configuration={"type": "task", "commands": ["true"]}))
    assert plan.offers[0].backend == "local"
    assert plan.price == 0
    assert plan.guard.text
    assert await engine.service.runs(project="main", all=True) == []


async def test_an_impossible_wish_fails_with_the_reason(engine: Engine) -> None:
    run = await apply(engine, "true", resources={"gpu": "H100:8"})
    view, _ = await finished(engine, run.id)
    assert view.state is RunState.FAILED
    assert "no offer" in view.message


async def test_a_stopped_engine_stops_nothing_and_the_next_one_goes_on(state: Home, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = Engine(state)
    await first.start()
    run = await apply(first, f"echo begun; until [ -e {gate} ]; do sleep 0.02; done; echo ended")
    await until(first, run.id, b"begun\n")
    await first.stop()
    assert state.database.exists() or store_has_unfinished(state.store)
    gate.touch()
    second = Engine(state)
    await second.start()
    view, log = await finished(second, run.id)
    await second.stop()
    assert view.state is RunState.DONE
    assert log == b"begun\nended\n"


async def test_a_run_whose_supervisor_was_killed_meanwhile_is_not_run_twice(state: Home, tmp_path: Path) -> None:
    first = Engine(state)
    await first.start()
    run = await apply(first, f"echo x >> {tmp_path}/count; echo up; sleep 60")
    await until(first, run.id, b"up\n")
    attempt = (await first.service.run(run.id, project="main")).attempts[-1].id
    await first.stop()
    os.kill(int((state.jobs / attempt / "pid").read_text().split()[0]), signal.SIGKILL)
    second = Engine(state)
    await second.start()
    view, log = await finished(second, run.id)
    await second.stop()
    assert view.state is RunState.FAILED
    assert "supervisor is gone" in view.message
    assert log == b"up\n"
    assert (tmp_path / "count").read_text() == "x\n"


async def test_an_ended_run_leaves_nothing_open(engine: Engine) -> None:
    run = await apply(engine, "true")
    await finished(engine, run.id)
    async with asyncio.timeout(10):
        async for event in engine.service.follow_events(project="main", after=1):
            if event.kind == "instance" and event.action == "terminated":
                break
        while engine.unfinished():
            await asyncio.sleep(0)
    assert engine.home.database.exists() or not store_has_unfinished(engine.home.store)


async def test_the_event_log_tells_the_story(engine: Engine) -> None:
    run = await apply(engine, "exit 3")
    await finished(engine, run.id)
    story = [(e.actor, e.kind, e.action) for e in await engine.service.events(project="main", run=run.id)]
    assert story[0] == ("ada", "run", "submitted")
    assert ("engine", "instance", "wanted") in story
    assert ("engine", "run", "failed") in story


async def test_projects_do_not_see_each_other(engine: Engine) -> None:
    await finished(engine, (await apply(engine, "true", name="mine")).id)
    assert await engine.service.runs(project="other", all=True) == []
    with pytest.raises(NotFound):
        await engine.service.run("mine", project="other")


async def test_doctor_finds_a_sound_installation_sound(engine: Engine) -> None:
    lines = await engine.service.doctor()
    assert {line["check"] for line in lines} >= {"engine", "store", "lease", "key", "clock", "hosts", "work"}
    assert all(line["ok"] for line in lines if line["check"] != "config.yml"), lines
