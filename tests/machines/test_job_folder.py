"""The job folder protocol on real processes: the supervisor under every shell there is, and the local machine."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dstack_jupyter.machines import job_folder
from dstack_jupyter.machines.base import Archive, DroppedReason, Ending, JobReport, JobSpec
from dstack_jupyter.machines.local import LocalMachine, clean_environment
from dstack_jupyter.machines.ssh.guest import FirstBoot
from dstack_jupyter.models.errors import ConfigurationError, NotFound

SHELLS = [shell for shell in ("/bin/dash", "/bin/bash --posix", "/bin/busybox sh") if Path(shell.split()[0]).exists()]


def spec(*commands: str, **more: object) -> JobSpec:
    # No start files of whoever runs the tests.
    values = {"attempt_id": "a1", "commands": list(commands), "env": {**clean_environment(), "HOME": "/nonexistent"}, **more}
    return JobSpec(**values)  # type: ignore[arg-type]


def supervise(folder: Path, job: JobSpec, shell: str = "/bin/sh") -> Ending:
    """Run a job under its supervisor, in the foreground."""
    job_folder.write(folder, job)
    subprocess.run(
        [*shell.split(), "-c", job_folder.supervisor_script(), "dj", str(folder)]
        + [str(job.log_limit), str(job.max_duration), str(job.stop_duration)],
        env={"PATH": os.environ["PATH"]},
        stderr=subprocess.DEVNULL,
        timeout=60,
        check=True,
    )
    ending = job_folder.read_ending(folder)
    assert ending is not None
    return ending


@pytest.mark.parametrize("shell", SHELLS)
class TestSupervisor:
    def test_exit_code_and_merged_log(self, tmp_path: Path, shell: str) -> None:
        folder = tmp_path / "job"
        assert supervise(folder, spec("echo out; echo err >&2", "exit 7", "echo never"), shell) == Ending(7)
        assert (folder / "log").read_bytes() == b"out\nerr\n"

    def test_variables_of_a_job_are_not_taken_for_ours(self, tmp_path: Path, shell: str) -> None:
        env = {**clean_environment(), "shell": "/nowhere/sh", "folder": "/nowhere"}
        assert supervise(tmp_path / "job", spec("echo $shell $folder", env=env), shell) == Ending(0)
        assert (tmp_path / "job" / "log").read_bytes() == b"/nowhere/sh /nowhere\n"

    def test_next_command_runs_only_after_success(self, tmp_path: Path, shell: str) -> None:
        assert supervise(tmp_path / "job", spec("echo one # a comment", "false", "echo two"), shell).exit_code == 1
        assert (tmp_path / "job" / "log").read_bytes() == b"one\n"

    def test_a_here_document_and_a_cd_reach_the_next_command(self, tmp_path: Path, shell: str) -> None:
        supervise(tmp_path / "job", spec("mkdir d; cd d", "cat <<END\nhi\nEND", "pwd"), shell)
        log = (tmp_path / "job" / "log").read_text()
        assert log.startswith("hi\n")
        assert log.endswith("/work/d\n")

    def test_max_duration_ends_the_job_without_an_engine(self, tmp_path: Path, shell: str) -> None:
        ending = supervise(tmp_path / "job", spec("echo a; sleep 60", max_duration=1), shell)
        assert ending.cause == "max_duration"
        assert ending.exit_code == 128 + signal.SIGTERM

    def test_a_job_that_hears_the_stop_has_the_last_word(self, tmp_path: Path, shell: str) -> None:
        polite = spec("trap 'echo bye; exit 5' TERM; while :; do sleep 0.1; done", max_duration=1)
        assert supervise(tmp_path / "job", polite, shell) == Ending(5, "max_duration")
        assert (tmp_path / "job" / "log").read_bytes().endswith(b"bye\n")

    def test_a_job_that_ignores_the_stop_is_killed(self, tmp_path: Path, shell: str) -> None:
        stubborn = spec("trap '' TERM; while :; do sleep 0.1; done", max_duration=1, stop_duration=1)
        assert supervise(tmp_path / "job", stubborn, shell).exit_code == 128 + signal.SIGKILL

    def test_output_past_the_limit_is_counted_not_kept(self, tmp_path: Path, shell: str) -> None:
        ending = supervise(tmp_path / "job", spec("head -c 3000000 /dev/zero", log_limit=1 << 20), shell)
        assert ending.exit_code == 0
        assert (tmp_path / "job" / "log").stat().st_size == 1 << 20
        assert 3000000 - (1 << 20) - ending.dropped < 1 << 18
        assert ending.dropped_reason is DroppedReason.LOG_LIMIT

    def test_a_second_supervisor_changes_nothing(self, tmp_path: Path, shell: str) -> None:
        folder = tmp_path / "job"
        supervise(folder, spec("echo once"), shell)
        supervise(folder, spec("echo once"), shell)
        assert (folder / "log").read_bytes() == b"once\n"

    @pytest.mark.parametrize("number", ["USR1", "TERM"])
    def test_a_signal_before_the_job_has_its_session_ends_it(self, tmp_path: Path, shell: str, number: str) -> None:
        # The child runs env.sh before it gets a session of its own; $$ is the supervisor there.
        slow = f"true; until [ -e pid ]; do :; done; sleep 0.2; kill -s {number} $$; sleep 0.5"
        job = spec("echo never; sleep 60", stop_duration=0)
        folder = tmp_path / "job"
        job_folder.write(folder, job)
        (folder / "env.sh").write_text(f"{slow}\n{(folder / 'env.sh').read_text()}")
        script = [*shell.split(), "-c", job_folder.supervisor_script(), "dj", str(folder), "1000000", "0", "0"]
        subprocess.run(script, env={"PATH": os.environ["PATH"]}, stderr=subprocess.DEVNULL, timeout=20, check=True)
        assert job_folder.read_ending(folder) == Ending(137, "aborted" if number == "USR1" else "stopped")
        assert (folder / "log").read_bytes() == b""

    def test_who_escapes_the_session_cannot_hold_the_run(self, tmp_path: Path, shell: str) -> None:
        began = time.monotonic()
        ending = supervise(tmp_path / "job", spec("setsid sleep 40 & sleep 0.1; echo done"), shell)
        assert ending == Ending(0)
        assert time.monotonic() - began < 30


class TestFullDisk:
    def test_output_that_finds_no_room_is_an_explicit_loss_and_the_exit_code_survives(self, tmp_path: Path) -> None:
        small = tmp_path / "small"
        small.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", small], capture_output=True)
        if mounted.returncode != 0:
            assert not os.environ.get("CI"), "CI must be able to mount a tmpfs"
            pytest.skip("needs the right to mount a tmpfs")
        try:
            ending = supervise(small / "job", spec("head -c 900000 /dev/zero; exit 3"))
        finally:
            subprocess.run(["umount", "--lazy", small], check=True)
        assert ending.exit_code == 3
        assert ending.dropped > 100_000


class TestWordsOfMachines:
    """What a machine writes in words is read once, where it arrives."""

    @pytest.mark.parametrize(
        ("words", "reason"),
        [
            ("", DroppedReason.NONE),
            ("cat: write error: File too large", DroppedReason.LOG_LIMIT),
            ("cat: write error: No space left on device", DroppedReason.DISK_FULL),
            ("no space left for the log", DroppedReason.DISK_FULL),
        ],
    )
    def test_why_output_was_dropped(self, words: str, reason: DroppedReason) -> None:
        assert DroppedReason.read(words) is reason

    @pytest.mark.parametrize(
        ("said", "boot"),
        [("", FirstBoot.GOES_ON), ("ok", FirstBoot.OK), ("failed: no Docker", FirstBoot.FAILED), ("okay?", FirstBoot.GOES_ON)],
    )
    def test_how_far_a_first_boot_is(self, said: str, boot: FirstBoot) -> None:
        assert FirstBoot.read(said) is boot


class TestQuoting:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60))
    def test_any_value_arrives_byte_for_byte(self, value: str) -> None:
        script = job_folder.env_script({"X": value}) + 'printf %s "$X"'
        found = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True)
        assert found.stdout == value.encode()

    @pytest.mark.parametrize("name", ["A B", "1A", "A=B", "A;rm", ""])
    def test_a_name_that_is_none_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match="environment variable"):
            job_folder.env_script({name: "x"})


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[LocalMachine]:
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    found = LocalMachine(jobs)
    yield found
    for folder in jobs.iterdir():
        await found.end(folder.name, abort=True)
        await until_ended(found, folder.name)
    await found.close()


async def until(machine: LocalMachine, attempt: str, done: Callable[[JobReport], bool], offset: int = 0) -> JobReport:
    """Wait, woken by the machine's own watch, until a look satisfies ``done``."""
    woken = asyncio.Event()
    machine.watch(attempt, woken.set)
    try:
        async with asyncio.timeout(20):
            while True:
                woken.clear()
                report = await machine.look(attempt, offset, 1 << 20)
                if done(report):
                    return report
                await woken.wait()
    finally:
        machine.unwatch(attempt)


async def until_ended(machine: LocalMachine, attempt: str) -> JobReport:
    return await until(machine, attempt, lambda report: report.ending is not None or bool(report.lost))


class TestLocalMachine:
    async def test_a_job_runs_in_a_clean_environment(self, machine: LocalMachine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-7f3a")
        env = clean_environment("/opt/x/bin/python")
        assert env["PATH"].startswith("/opt/x/bin:")
        await machine.launch(spec("env", env={**env, "MINE": "it's"}))
        report = await until_ended(machine, "a1")
        assert b"canary-7f3a" not in report.data
        assert b"MINE=it's\n" in report.data

    async def test_the_log_is_read_from_any_byte(self, machine: LocalMachine) -> None:
        await machine.launch(spec("printf abcdef"))
        await until_ended(machine, "a1")
        assert (await machine.look("a1", 2, 3)).data == b"cde"
        last = await machine.look("a1", 5, 10)
        assert (last.data, last.ending) == (b"f", Ending(0))

    async def test_launching_twice_runs_once(self, machine: LocalMachine, tmp_path: Path) -> None:
        job = spec(f"echo x >> {tmp_path}/count")
        await asyncio.gather(*(machine.launch(job) for _ in range(8)))
        await until_ended(machine, "a1")
        assert (tmp_path / "count").read_text() == "x\n"

    async def test_another_engine_adopts_a_running_job(self, machine: LocalMachine, tmp_path: Path) -> None:
        await machine.launch(spec("echo begun; until [ -e gate ]; do sleep 0.02; done; echo ended"))
        await until(machine, "a1", lambda report: b"begun" in report.data)
        successor = LocalMachine(tmp_path / "jobs")
        try:
            assert (await successor.look("a1", 0, 100)).lost == ""
            await successor.launch(spec("echo a second time"))
            (tmp_path / "jobs/a1/work/gate").touch()
            report = await until_ended(successor, "a1")
        finally:
            await successor.close()
        assert (report.data, report.ending) == (b"begun\nended\n", Ending(0))

    async def test_stop_and_abort(self, machine: LocalMachine) -> None:
        await machine.launch(spec("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done"))
        await until(machine, "a1", lambda report: b"up" in report.data)
        await machine.end("a1", abort=False)
        report = await until_ended(machine, "a1")
        assert report.ending == Ending(0, "stopped")
        assert report.data.endswith(b"bye\n")

    async def test_a_job_that_just_begins_cannot_be_told_to_end_yet(self, machine: LocalMachine, tmp_path: Path) -> None:
        (tmp_path / "jobs/a1/started").mkdir(parents=True)
        assert not await machine.end("a1", abort=True)
        (tmp_path / "jobs/a1/exit").write_text("0 -")
        assert await machine.end("a1", abort=True)

    async def test_a_killed_supervisor_is_noticed_at_once(self, machine: LocalMachine, tmp_path: Path) -> None:
        await machine.launch(spec("echo $$; exec sleep 30"))
        report = await until(machine, "a1", lambda report: report.data.endswith(b"\n"))
        await until(machine, "a1", lambda _: (tmp_path / "jobs/a1/pid").exists())
        os.kill(int((tmp_path / "jobs/a1/pid").read_text().split()[0]), signal.SIGKILL)
        lost = await until_ended(machine, "a1")
        os.killpg(int(report.data), signal.SIGKILL)
        assert "supervisor is gone" in lost.lost

    async def test_code_is_unpacked_where_it_belongs(self, machine: LocalMachine, tmp_path: Path) -> None:
        (tmp_path / "train.py").write_text("print('trained')")
        archive = tmp_path / "code.tar"
        subprocess.run(["tar", "-C", tmp_path, "-cf", archive, "train.py"], check=True)
        await machine.launch(spec("cat sub/train.py", archives=[Archive(archive, "sub")]))
        assert (await until_ended(machine, "a1")).data == b"print('trained')"

    async def test_pull_sends_a_folder_and_refuses_what_is_outside(self, machine: LocalMachine, tmp_path: Path) -> None:
        await machine.launch(spec("mkdir out; echo 1 > out/a; echo 2 > out/b"))
        await until_ended(machine, "a1")
        tar = b"".join([chunk async for chunk in machine.pull("a1", "out")])
        names = subprocess.run(["tar", "-t"], input=tar, capture_output=True, check=True).stdout.split()
        assert names == [b"a", b"b"]
        with pytest.raises(NotFound, match="no 'missing'"):
            [chunk async for chunk in machine.pull("a1", "missing")]
        with pytest.raises(ConfigurationError, match="outside"):
            [chunk async for chunk in machine.pull("a1", "../../..")]

    async def test_an_absent_shell_is_a_clear_refusal(self, machine: LocalMachine) -> None:
        with pytest.raises(ConfigurationError, match="no shell /bin/nosuch"):
            await machine.launch(spec("true", shell="/bin/nosuch"))


def test_the_protocol_needs_nothing_but_posix() -> None:
    """Every external command of the supervisor is one that coreutils and busybox both have."""
    assert shutil.which("sh")
    script = job_folder.supervisor_script()
    assert "[[" not in script
    assert "function " not in script
