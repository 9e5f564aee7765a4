"""What every run can rely on, wherever it is."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from dstack_jupyter.client import Run
from dstack_jupyter.models.errors import Conflict, NotFound
from dstack_jupyter.models.frames import LogFrame
from tests.conftest import wait_until
from tests.contract.conftest import REAL
from tests.contract.subjects import SECONDS, Subject, mark

ANY_BYTES = "".join(f"\\{number:03o}" for number in range(256))


def test_a_task_has_what_it_was_sent_and_says_what_it_did(subject: Subject) -> None:
    value = 'it\'s "ä"\n$(x) \\ \x7f'
    (subject.folder / "pkg").mkdir()
    (subject.folder / "pkg/part.txt").write_text("in a folder\n")
    (subject.folder / "pkg/tool").write_text("#!/bin/sh\necho from a tool\n")
    (subject.folder / "pkg/tool").chmod(0o755)
    (subject.folder / "pkg/link").symlink_to("part.txt")
    (subject.folder / "data.txt").write_text("in a file\n")
    left = mark()
    run = subject.ended(
        subject.apply(
            "cat ../data.txt ../pkg/part.txt ../pkg/link ../there/renamed.txt && ../pkg/tool && test ! -x ../data.txt",
            'printf %s "$X"',
            'echo "$DSTACK_RUN_NAME $DSTACK_NODES_NUM $DSTACK_NODE_RANK $DSTACK_NODES_IPS $DSTACK_MASTER_NODE_IP" >&2',
            'echo "${CANARY-nothing} of the engine, $(cat | wc -c) bytes to read"',
            f"sh -c 'sleep 3600; : {left}' & echo left something",
            f"printf '{ANY_BYTES}'; (exit 7)",
            "echo never",
            name="all-of-it",
            env={"X": value},
            files=["data.txt", "pkg", "data.txt:there/renamed.txt"],
            working_dir="deep",
        )
    )
    files = b"in a file\nin a folder\nin a folder\nin a file\nfrom a tool\n"
    words = f"{value}all-of-it 1 0 127.0.0.1 127.0.0.1\nnothing of the engine, 0 bytes to read\nleft something\n"
    assert run.raw() == files + words.encode() + bytes(range(256))
    assert (run.state, run.exit_code, run.view.attempts[-1].reason) == ("failed", 7, "container_exited_with_error")
    assert run.logs().text.startswith("in a file\n")
    subject.leaves_nothing(left)


@REAL
def test_a_container_is_asked_for_by_its_image(subject: Subject) -> None:
    if subject.refuses("containers", "true", image="local/busybox"):
        return
    run = subject.ended(subject.apply("echo in; cat /etc/passwd; exit 3", image="local/busybox"))
    assert (run.state, run.exit_code, run.raw()) == ("failed", 3, b"in\nroot:x:0:0:root:/root:/bin/sh\n")


def test_a_name_is_one_run_at_a_time_and_a_stop_leaves_it_its_last_words(subject: Subject) -> None:
    job = mark()
    run = subject.apply(
        "mkdir -p out/deep; echo result > out/deep/out.txt; printf '#!/bin/sh' > out/tool; chmod 755 out/tool",
        f"trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1 2>/dev/null; done; : {job}",
        name="one",
    )
    with pytest.raises(Conflict, match="'one' is active"):
        subject.apply("true", name="one")
    subject.says(run, b"up\n")
    assert job in subject.processes()
    pulled = subject.folder / "pulled"
    assert [path.read_text() for path in run.pull("out/deep/out.txt", pulled)] == ["result\n"]
    assert sorted(path.relative_to(pulled) for path in run.pull("out", pulled)) == [Path("deep/out.txt"), Path("tool")]
    assert os.access(pulled / "tool", os.X_OK)
    with pytest.raises(NotFound, match="absent.txt"):
        run.pull("absent.txt", pulled)
    subject.ended(run.stop())
    subject.leaves_nothing(job)
    assert (run.state, run.view.reason) == ("terminated", "stopped_by_user")
    log = run.raw()
    assert (log[:3], log[-4:]) == (b"up\n", b"bye\n")
    wait_until(lambda: not run.refresh().view.machines, SECONDS, "its machine to go, if it is rented")
    if "files after the end" in subject.lacks:
        with pytest.raises(NotFound, match=subject.lacks["files after the end"]):
            run.pull("out", subject.folder / "late")
    else:
        assert len(run.pull("out", subject.folder / "late")) == 2
    again = subject.apply("true", name="one")
    assert again.id != run.id
    subject.ended(again.stop(abort=True))


def test_an_abort_ends_what_does_not_heed_a_stop(subject: Subject) -> None:
    job = mark()
    run = subject.apply(f"trap '' TERM; echo up; while :; do sleep 0.1; done; : {job}")
    subject.says(run, b"up\n")
    run.stop()
    run.stop(abort=True)
    assert (subject.ended(run).state, run.view.reason) == ("terminated", "aborted_by_user")
    subject.leaves_nothing(job)


def test_a_stop_that_is_not_heeded_is_a_kill_after_its_duration(subject: Subject) -> None:
    job = mark()
    run = subject.apply(f"trap 'echo no' TERM; echo up; while :; do sleep 0.1; done; : {job}", stop_duration="2s")
    subject.says(run, b"up\n")
    subject.ended(run.stop())
    assert (run.state, run.view.reason, run.exit_code) == ("terminated", "stopped_by_user", 137)
    assert b"no\n" in run.raw()  # it was asked first
    subject.leaves_nothing(job)


def test_max_duration_ends_a_run(subject: Subject) -> None:
    job = mark()
    run = subject.ended(subject.apply(f"echo up; sleep 600; : {job}", max_duration=1))
    assert (run.state, run.view.reason) == ("terminated", "max_duration_exceeded")
    assert run.raw().startswith(b"up\n")
    subject.leaves_nothing(job)


def test_followers_come_and_go_and_miss_no_byte(subject: Subject) -> None:
    run = subject.apply("seq 500; sleep 1; seq 501 1000; sleep 1; seq 1001 1500")
    first = _log(run, until=b"\n500\n")
    rest = _log(run, offset=len(first))
    whole = b"".join(b"%d\n" % number for number in range(1, 1501))
    assert first + rest == whole
    assert _log(run) == run.raw() == whole
    ended = subject.ended(run).view
    assert (ended.state, ended.reason, ended.exit_code) == ("done", "all_jobs_done", 0)


def test_a_run_and_who_follows_it_outlive_the_engine(subject: Subject) -> None:
    said, rest = mark(), " of it"  # together they are in no command line before the job is so far
    run = subject.apply(f"seq 500; sleep 1; seq 501 1000; rest='{rest}'; sh -c \"sleep 2; : {said}$rest\"; seq 1001 1500; exit 9")

    def goes_on_alone() -> None:
        wait_until(lambda: f"{said}{rest}" in subject.processes(), SECONDS, "the job to write what no engine reads")

    log = b""
    for frame in run.stream(timeout=SECONDS):
        if isinstance(frame, LogFrame):
            before, log = log, log + base64.b64decode(frame.data)
            if b"\n500\n" in log and b"\n500\n" not in before:
                subject.engine_dies(goes_on_alone)
    assert log == run.raw() == b"".join(b"%d\n" % number for number in range(1, 1501))
    assert (run.state, run.exit_code, len(run.view.attempts)) == ("failed", 9, 1)


def _log(run: Run, *, offset: int = 0, until: bytes = b"no such text") -> bytes:
    """Follow a log from a byte to its end, or go away when ``until`` was seen."""
    log = b""
    for frame in run.stream(offset=offset, timeout=SECONDS):
        if isinstance(frame, LogFrame):
            assert frame.offset == offset + len(log)
            log += base64.b64decode(frame.data)
            if until in log:
                break
    return log


def test_an_error_is_tried_again_where_that_was_asked_for(subject: Subject) -> None:
    fails = subject.apply("echo tried; exit 3", retry={"on_events": ["error"], "duration": "1h"})
    once = subject.apply("exit 4", retry={"on_events": ["interruption"], "duration": "1h"})
    over = subject.apply("exit 5", retry={"on_events": ["error"], "duration": "1s"})
    assert (subject.ended(once).state, once.exit_code, len(once.view.attempts)) == ("failed", 4, 1)
    assert (subject.ended(over).view.reason, over.exit_code, len(over.view.attempts)) == ("retry_limit_exceeded", 5, 1)
    wait_until(lambda: [each.exit_code for each in fails.refresh().view.attempts] == [3, 3], SECONDS, "the second attempt")
    first, second = fails.view.attempts
    assert first.finished_at is not None
    assert second.submitted_at - first.finished_at >= 14, "each attempt may cost: not at once"
    assert (fails.state, len(fails.view.attempts), fails.raw()) == ("pending", 2, b"tried\n")
    subject.ended(fails.stop(abort=True))


def test_a_machine_that_dies_is_an_interruption_and_the_run_goes_on_elsewhere(subject: Subject) -> None:
    run = subject.apply("echo up; sleep 600", retry={"on_events": ["interruption"], "duration": "1h"})
    subject.says(run, b"up\n")
    subject.dies(run.refresh())
    if "another machine" in subject.lacks:
        assert (subject.ended(run).state, run.view.attempts[-1].reason) == ("failed", "executor_error")
        assert subject.lacks["another machine"] in run.view.message
        return
    wait_until(lambda: len(run.refresh().view.attempts) == 2, SECONDS, "the second attempt")
    assert run.view.attempts[0].reason == "interrupted_by_no_capacity"
    subject.says(run, b"up\n")
    subject.ended(run.stop(abort=True))
