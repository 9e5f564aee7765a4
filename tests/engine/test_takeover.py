"""Two hosts on one home: a dead one frees the lock, one that stands still is taken over from and changes nothing when it wakes.

A host whose loop is blocked stands still just as a stopped process does; the real thing, with SIGSTOP and Jupyter servers, is in
tests/server.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from dstack_jupyter.client import Client
from dstack_jupyter.engine.process import lock as lease_module
from dstack_jupyter.engine.process.host import EngineHost
from dstack_jupyter.engine.process.lock import Lease, file_system, refuse_network_home
from dstack_jupyter.models import endpoint
from dstack_jupyter.models.errors import ConfigurationError, DstackJupyterError
from dstack_jupyter.models.home import Home
from tests.client.test_client import apply, whole
from tests.conftest import home_at, wait_until

FAST = 0.1


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts and looks come twenty times as often."""
    monkeypatch.setattr("dstack_jupyter.engine.process.host.LOOK", FAST)


@contextmanager
def standing_still(host: EngineHost) -> Iterator[None]:
    """The host's loop does nothing meanwhile."""
    gate = threading.Event()
    stopped = threading.Event()

    def stand() -> None:
        stopped.set()
        gate.wait(60)

    assert host._loop is not None
    host._loop.call_soon_threadsafe(stand)
    stopped.wait(10)
    try:
        yield
    finally:
        gate.set()


class TestLock:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Home:
        return Home(tmp_path / "state")

    def look(self, waiting: Lease, times: int) -> list[bool]:
        return [waiting.stands_still() for _ in range(times)]

    def test_one_holds_it_and_who_holds_it_lets_it_go(self, home: Home) -> None:
        one, two = Lease(home), Lease(home)
        assert one.acquire()
        assert not two.acquire()
        one.release()
        assert two.acquire()
        two.release()

    def test_a_holder_that_counts_is_left_alone_however_often_one_looks(self, home: Home) -> None:
        one, two = Lease(home), Lease(home)
        assert one.acquire()
        for _ in range(50):
            assert not two.stands_still()
            assert one.beat()
        assert two.moving
        one.release()

    def test_it_takes_five_looks_that_see_nothing_move(self, home: Home) -> None:
        one, two = Lease(home), Lease(home)
        assert one.acquire()
        assert self.look(two, 6) == [False] * 5 + [True]
        assert one.beat()
        assert not two.stands_still()  # it moved: from the beginning again
        assert self.look(two, 5) == [False] * 4 + [True]
        one.release()

    def test_who_stood_still_finds_out_and_does_not_free_the_lock_of_the_other(self, home: Home) -> None:
        one, two, three = Lease(home), Lease(home), Lease(home)
        assert one.acquire()
        assert self.look(two, 6)[-1]
        assert two.take_over()
        assert two.displaced == os.getpid()
        assert not one.beat()
        one.release()
        assert not three.acquire()
        assert two.beat()
        two.release()
        assert three.acquire()
        three.release()

    def test_a_holder_that_wakes_at_the_last_moment_keeps_it(self, home: Home) -> None:
        one, two = Lease(home), Lease(home)
        assert one.acquire()
        assert self.look(two, 6)[-1]
        assert one.beat()
        assert not two.take_over()
        assert one.beat()
        one.release()

    def test_of_two_who_wait_one_takes_over(self, home: Home) -> None:
        one, two, three = Lease(home), Lease(home), Lease(home)
        assert one.acquire()
        assert self.look(two, 6)[-1]
        assert self.look(three, 6)[-1]
        assert two.take_over()
        assert not three.take_over()
        assert not three.acquire()
        two.release()
        one.release()


def test_who_stands_still_is_taken_over_from_and_changes_nothing_when_it_wakes(state: Home, tmp_path: Path) -> None:
    first, second = EngineHost(state, "server"), EngineHost(state, "server")
    first.start()
    assert first.wait_ready(10)
    client = Client(state, start=False)
    run = apply(client, f"echo up; until [ -e {tmp_path}/gate ]; do sleep 0.02; done; echo down")
    wait_until(lambda: run.refresh().state == "running")
    second.start()
    assert second.wait_ready(10)
    assert not second.hosting
    with standing_still(first):
        began = time.monotonic()
        wait_until(lambda: second.unfinished() == 1, what="the takeover")
        assert time.monotonic() - began < 20 * FAST + 10
        (tmp_path / "gate").touch()
        assert whole(Client(state, start=False).run(run.id)) == b"up\ndown\n"
        wait_until(lambda: second.unfinished() == 0, what="the end of all work")
        events = [each.action for each in Client(state, start=False).events(run=run.id)]
    wait_until(lambda: not first.hosting, what="the first host to step down")
    assert [each.action for each in Client(state, start=False).events(run=run.id)] == events
    assert apply(Client(state, start=False), "true").wait(20).state == "done"
    # It waits for its turn again, and gets it.
    second.stop()
    wait_until(lambda: first.hosting, what="the first host's second turn")
    assert apply(Client(state, start=False), "true").wait(20).state == "done"
    first.stop()


@pytest.mark.parametrize("where", ["sqlite"], indirect=True)
def test_what_an_old_engine_is_asked_after_a_takeover_is_refused_and_asked_again(state: Home) -> None:
    first, second = EngineHost(state, "server"), EngineHost(state, "server")
    first.start()
    assert first.wait_ready(10)
    apply(Client(state, start=False), "true").wait(20)
    second.start()
    assert second.wait_ready(10)
    answers: list[Any] = []
    with standing_still(first):
        # Asked while it stands still: the request waits in the old socket.
        asking = threading.Thread(target=lambda: answers.append(apply(Client(state, start=False), "echo once").wait(30)))
        asking.start()
        wait_until(lambda: endpoint.read(state) is not None and second.hosting, what="the takeover")
        wait_until(lambda: Client(state, start=False).info().store_open, what="the second engine")
    asking.join(40)
    assert [run.state for run in answers] == ["done"]
    named = [run for run in Client(state, start=False).runs(all=True) if run.name == answers[0].name]
    assert len(named) == 1
    for host in (first, second):
        host.stop()


def test_a_store_that_somebody_holds_in_the_middle_of_a_change_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dstack_jupyter.engine.store.connect.BUSY", 0.2)
    home = home_at(tmp_path / "state", tmp_path)
    first = EngineHost(home, "server")
    first.start()
    assert first.wait_ready(10)
    apply(Client(home, start=False), "true").wait(20)
    second = EngineHost(home, "server")
    second.start()
    with standing_still(first), closing(sqlite3.connect(home.store, isolation_level=None)) as stuck:
        stuck.execute("BEGIN IMMEDIATE")
        wait_until(lambda: second.hosting, what="the takeover")
        wait_until(lambda: Client(home, start=False).info().problems, what="the problem to be said")
        assert f"kill -CONT {os.getpid()}" in Client(home, start=False).info().problems[0]
        with pytest.raises(DstackJupyterError, match="in the middle of a change"):
            Client(home, start=False).runs()
        stuck.execute("ROLLBACK")
    assert apply(Client(home, start=False), "true").wait(20).state == "done"
    for host in (first, second):
        host.stop()


class TestNetworkHome:
    MOUNTS = "/dev/sda1 / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\n/dev/sdb1 /home/local\\040disk xfs rw 0 0\n"

    def test_the_nearest_mount_counts(self) -> None:
        assert file_system(Path("/var/x"), self.MOUNTS) == "ext4"
        assert file_system(Path("/home/ada/.dstack"), self.MOUNTS) == "nfs4"
        assert file_system(Path("/home/local disk/x"), self.MOUNTS) == "xfs"

    def test_a_home_on_nfs_is_refused_with_the_remedy_and_not_with_a_shared_store(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mounts = tmp_path / "mounts"
        mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/home {tmp_path} nfs4 rw 0 0\n")
        monkeypatch.setattr(lease_module, "MOUNTS", mounts)
        home = Home(tmp_path / "state")
        with pytest.raises(ConfigurationError, match=r"network file system \(nfs4\)") as caught:
            refuse_network_home(home)
        assert "DSTACK_JUPYTER_HOME" in caught.value.hint
        with pytest.raises(ConfigurationError):
            EngineHost(home, "server").start()
        monkeypatch.setenv("DSTACK_JUPYTER_DATABASE", "postgresql://nobody@/nothing?host=/nonexistent")
        host = EngineHost(home, "server")
        host.start()
        assert host.wait_ready(10)
        wait_until(lambda: Client(home, start=False).info().problems, what="the problem to be said")
        assert "does not answer" in Client(home, start=False).info().problems[0]
        host.stop()
