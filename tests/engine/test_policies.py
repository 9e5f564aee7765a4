"""Retries, schedules, nodes among themselves, blocks, guards: the pure parts."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from dstack_jupyter.engine.jobs.job_ssh import PORT, Node, ssh_files
from dstack_jupyter.engine.jobs.nodes import ends_with, must_wait
from dstack_jupyter.engine.keys.ssh_keys import Keys
from dstack_jupyter.engine.provisioning.placement import blocks_needed, needs_container
from dstack_jupyter.engine.reconcilers.watchdog import underused
from dstack_jupyter.engine.steps.policies import next_start, policy_of
from dstack_jupyter.engine.steps.run import DELAYS, JobNow, Policy, derive
from dstack_jupyter.models.configurations import run_configuration
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.offers import OfferView
from dstack_jupyter.models.states import AttemptState, Desired, InstanceState, Reason, RunState
from dstack_jupyter.models.stored import StoredRun

ALL = frozenset({"no-capacity", "interruption", "error"})


def failed(reason: str = Reason.EXITED_WITH_ERROR, num: int = 0, at: float = 1000.0) -> JobNow:
    return JobNow(AttemptState.FAILED, reason, "it failed", 1, num, submitted_at=at - 5, finished_at=at)


class TestRetry:
    def test_without_a_policy_a_failure_is_the_end(self) -> None:
        assert derive([failed()], Desired.RUNNING).state is RunState.FAILED

    @pytest.mark.parametrize(("num", "delay"), list(enumerate(DELAYS)) + [(9, DELAYS[-1])])
    def test_each_try_waits_longer(self, num: int, delay: int) -> None:
        found = derive([failed(num=num)], Desired.RUNNING, Policy(ALL, 1e6), submitted_at=0, now=1000)
        assert (found.state, found.next_at) == (RunState.PENDING, 1000 + delay)

    @pytest.mark.parametrize(
        ("reason", "event"),
        [
            (Reason.NO_CAPACITY, "no-capacity"),
            (Reason.INTERRUPTED, "interruption"),
            (Reason.INSTANCE_UNREACHABLE, "interruption"),
            (Reason.EXITED_WITH_ERROR, "error"),
            (Reason.CREATING_ERROR, "error"),
        ],
    )
    def test_only_the_events_that_were_asked_for_count(self, reason: Reason, event: str) -> None:
        asked = derive([failed(reason)], Desired.RUNNING, Policy(frozenset({event}), 1e6), submitted_at=0, now=1000)
        others = derive([failed(reason)], Desired.RUNNING, Policy(ALL - {event}, 1e6), submitted_at=0, now=1000)
        assert (asked.state, others.state) == (RunState.PENDING, RunState.FAILED)

    def test_the_clock_of_no_capacity_is_the_run_s_age_and_of_others_the_last_attempt_s(self) -> None:
        policy = Policy(ALL, 600)
        without = derive([failed(Reason.NO_CAPACITY)], Desired.RUNNING, policy, submitted_at=300, now=1000)
        crashed = derive([failed()], Desired.RUNNING, policy, submitted_at=300, now=1000)
        assert (without.state, without.reason) == (RunState.FAILED, Reason.RETRY_LIMIT)
        assert crashed.state is RunState.PENDING

    def test_a_stop_ends_the_tries(self) -> None:
        assert derive([failed()], Desired.STOPPED, Policy(ALL, 1e6), now=1000).state is RunState.FAILED

    def test_nodes_are_tried_again_when_all_of_them_have_ended(self) -> None:
        other = JobNow(AttemptState.TERMINATED, Reason.ENDED_BY_SERVER, "", finished_at=1003)
        running = JobNow(AttemptState.RUNNING)
        policy = Policy(ALL, 1e6)
        assert derive([failed(), running], Desired.RUNNING, policy, now=1000).state is RunState.RUNNING
        assert derive([failed(), other], Desired.RUNNING, policy, now=1003).next_at == 1003 + DELAYS[0]


class TestSchedule:
    def test_a_scheduled_run_waits_again_after_each_end(self) -> None:
        done = JobNow(AttemptState.DONE)
        found = derive([done], Desired.RUNNING, Policy(next_start=5000), now=1000)
        assert (found.state, found.next_at) == (RunState.PENDING, 5000)
        assert derive([done], Desired.STOPPED, Policy(next_start=5000), now=1000).state is RunState.DONE

    def test_the_next_start_is_utc_and_the_earliest_of_several(self) -> None:
        midnight = 1_700_006_400.0  # 2023-11-15 00:00 UTC
        one = {"schedule": {"cron": "30 8 * * *"}}
        assert next_start(StoredRun(one), midnight) == midnight + 8.5 * 3600
        assert next_start(StoredRun({"schedule": {"cron": ["30 8 * * *", "0 6 * * *"]}}), midnight) == midnight + 6 * 3600
        assert next_start(StoredRun({}), midnight) == 0

    def test_a_policy_is_read_from_the_configuration(self) -> None:
        given = {
            "type": "task",
            "commands": ["x"],
            "retry": {"on_events": ["error"], "duration": "2h"},
            "stop_criteria": "master-done",
        }
        assert policy_of(StoredRun(given), 0) == Policy(frozenset({"error"}), 7200, True)
        assert policy_of(StoredRun({"type": "task", "commands": ["x"], "retry": True}), 0) == Policy(ALL, 3600)
        assert policy_of(StoredRun({"type": "task", "commands": ["x"]}), 0) == Policy()


def row(**values: Any) -> Any:
    return SimpleNamespace(**values)


def siblings(*states: AttemptState, placed: bool = True) -> list[Any]:
    place = row(id="host", state=InstanceState.BUSY) if placed else None
    return [(row(id=f"a{job}", job=job, state=state, message="it failed"), place) for job, state in enumerate(states)]


class TestNodes:
    def test_nobody_starts_before_every_node_has_its_machine(self) -> None:
        run = row(configuration=StoredRun({}))
        found = siblings(AttemptState.PROVISIONING, AttemptState.SUBMITTED)
        found[1] = (found[1][0], None)
        assert must_wait(found[0][0], run, found)
        assert not must_wait(found[0][0], run, siblings(AttemptState.PROVISIONING, AttemptState.PROVISIONING))

    @pytest.mark.parametrize(
        ("order", "master", "worker"), [("any", False, False), ("master-first", False, True), ("workers-first", True, False)]
    )
    def test_startup_order(self, order: str, master: bool, worker: bool) -> None:
        run = row(configuration=StoredRun({"startup_order": order}))
        found = siblings(AttemptState.PROVISIONING, AttemptState.PROVISIONING)
        assert [must_wait(attempt, run, found) for attempt, _ in found] == [master, worker]
        begun = siblings(AttemptState.RUNNING, AttemptState.RUNNING)
        assert not any(must_wait(attempt, run, begun) for attempt, _ in begun)

    def test_a_failed_node_ends_the_others_and_a_done_master_only_where_that_is_asked(self) -> None:
        run = row(configuration=StoredRun({}))
        found = siblings(AttemptState.FAILED, AttemptState.RUNNING)
        assert ends_with(found[0][0], run, found) is None
        because = ends_with(found[1][0], run, found)
        assert because is not None and "the master failed: it failed" in because[1]
        done = siblings(AttemptState.DONE, AttemptState.RUNNING)
        assert ends_with(done[1][0], run, done) is None
        assert ends_with(done[1][0], row(configuration=StoredRun({"stop_criteria": "master-done"})), done) is not None

    def test_a_done_master_decides_though_workers_were_ended(self) -> None:
        ended = JobNow(AttemptState.TERMINATED, Reason.ENDED_BY_SERVER)
        done = JobNow(AttemptState.DONE)
        assert derive([done, ended], Desired.RUNNING, Policy(master_decides=True)).state is RunState.DONE
        assert derive([failed(), ended], Desired.RUNNING).state is RunState.FAILED


@pytest.mark.parametrize(
    ("resources", "blocks", "needed"),
    [
        ({}, 8, 1),
        ({"gpu": 1}, 8, 1),
        ({"gpu": 2}, 8, 2),
        ({"gpu": "3.."}, 4, 2),
        ({"cpu": "20.."}, 8, 2),
        ({"memory": "300GB.."}, 4, 3),
        ({"gpu": 8}, 1, 1),
    ],
)
def test_as_many_blocks_as_hold_what_was_asked_for(resources: dict[str, Any], blocks: int, needed: int) -> None:
    run = run_configuration({"commands": ["x"], "resources": resources})
    offer = OfferView(
        backend="ssh", instance_type="big", cpus=96.0, memory_gb=512.0, disk_gb=None, gpu_count=8, gpu_memory_gb=80.0, price=0.0
    )
    assert blocks_needed(run, offer, blocks) == needed


def test_what_a_process_cannot_do_needs_a_container() -> None:
    assert not needs_container(run_configuration({"commands": ["x"], "resources": {"gpu": 1}}))
    for keys in (
        {"image": "a"},
        {"privileged": True},
        {"user": "1000"},
        {"volumes": ["/a:/b"]},
        {"resources": {"shm_size": "1GB"}},
    ):
        assert needs_container(run_configuration({"commands": ["x"], **keys}))


def test_a_gpu_must_stay_below_for_the_whole_window() -> None:
    low = deque((10.0 * number, [5, 90]) for number in range(40))
    assert underused(low, 300, 10)  # any one GPU is enough
    assert not underused(deque(list(low)[:10]), 300, 10)  # too short
    mixed = deque((at, [50 if at == 200 else 5, 90]) for at, _ in low)
    assert not underused(mixed, 300, 10)
    assert not underused(deque((at, [50, 90]) for at, _ in low), 300, 10)


def test_keys_of_a_run_are_the_same_again_and_its_own(tmp_path: Any) -> None:
    keys = Keys(Home(tmp_path / "state"), b"s" * 32)
    nodes = [Node(0, "10.0.0.1", 2), Node(1, "10.0.0.2", 2)]
    first, again = (ssh_files(keys, "r1", "pair", 1, nodes) for _ in range(2))
    # OpenSSH's form of a private key holds random bytes; what it is shows in its public half.
    public = ("ssh_known", "ssh_authorized", "ssh_client", "ssh_server")
    assert [first[name] for name in public] == [again[name] for name in public]
    assert ssh_files(keys, "r2", "pair", 1, nodes)["ssh_authorized"] != first["ssh_authorized"]
    assert len({line.split()[2] for line in first["ssh_known"].splitlines()}) == 2
    assert first["mpi_hosts"] == "10.0.0.1 slots=2\n10.0.0.2 slots=2\n"
    assert f"[10.0.0.1]:{PORT} ssh-ed25519 " in first["ssh_known"]
    assert "Host node-0 pair-0 10.0.0.1" in first["ssh_client"]
    assert "StrictHostKeyChecking yes" in first["ssh_client"]
    for path in (tmp_path / "state" / "keys").iterdir():
        assert path.stat().st_mode & 0o077 == 0
