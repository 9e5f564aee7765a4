"""The attempt reconciler step by step, on a real store and real processes: the orders of events that luck seldom deals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dstack_jupyter.engine.jobs.spec import JobMaker
from dstack_jupyter.engine.keys.ssh_keys import Keys
from dstack_jupyter.engine.names import identity, new_id
from dstack_jupyter.engine.reconcilers.attempt import AttemptReconciler
from dstack_jupyter.engine.runtime.bus import Bus
from dstack_jupyter.engine.runtime.queue import Key
from dstack_jupyter.engine.store import moves, runs
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.machines.base import JobSpec
from dstack_jupyter.machines.local import LocalMachine
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.instances import Guard
from dstack_jupyter.models.offers import OfferView
from dstack_jupyter.models.states import AttemptState, InstanceState
from tests.conftest import wait_until
from tests.engine.test_store import submission

OFFER = OfferView(
    backend="local", region="local", instance_type="local", cpus=1, memory_gb=1, disk_gb=1, price=0, spot=False, cpu_arch="arm64"
)


class ByHand:
    """One run on this machine whose reconciler is called by the test alone. ``woken`` are the keys that it asked for."""

    def __init__(self, home: Home) -> None:
        self.woken: list[Key] = []
        self.database = Database(home.create().store)
        self.machine = LocalMachine(home.jobs)
        self.home = home
        self.submission = submission(
            configuration={"type": "task", "name": "train", "commands": ["sleep 60"]}, context={"cwd": "/", "python": ""}
        )
        self.reconciler = AttemptReconciler(
            self.database,
            Bus(),
            machine=lambda _: self.machine,
            spec=self._spec,
            wake=self.woken.append,
            kill_requests={},
            running=self._running,
            ended=lambda _: None,
        )

    async def _spec(self, *rows: Any) -> JobSpec:
        return JobMaker(lambda _: Path(), Keys(self.home, b"s" * 32)).spec(*rows)

    async def _running(self, *_: Any) -> bool:
        return True

    @property
    def key(self) -> Key:
        return Key("attempt", self.submission.attempt_ids[0])

    async def begin(self) -> None:
        await self.database.open()
        await self.database.write(runs.submit, self.submission)
        fleet, run, _, _ = await self.database.read(moves.load_fleet, self.submission.fleet_id)
        instance_id = new_id()

        def want(connection: Any) -> None:
            moves.want_instance(
                connection,
                instance_id=instance_id,
                identity=identity("0" * 16, instance_id),
                attempt_id=self.key.id,
                fleet=fleet,
                run_id=run.id,
                offer=OFFER,
                guard=Guard(kind="none", text=""),
                host="local",
                gpus=[],
            )
            moves.move_instance(connection, instance_id, InstanceState.IDLE)

        await self.database.write(want)

    async def state(self) -> str:
        attempt, _, _ = await self.database.read(moves.load_attempt, self.key.id)
        return str(attempt.state)


@pytest.fixture
async def by_hand(tmp_path: Path) -> AsyncIterator[ByHand]:
    found = ByHand(Home(tmp_path / "state"))
    await found.begin()
    yield found
    await found.machine.end(found.key.id, abort=True)
    await found.machine.close()
    await found.database.close()


async def test_an_abort_between_the_launch_and_the_first_look_is_carried_out_at_once(by_hand: ByHand) -> None:
    await by_hand.reconciler.reconcile(by_hand.key)
    pid = by_hand.home.jobs / by_hand.key.id / "pid"
    wait_until(pid.exists, what="the supervisor")
    assert await by_hand.state() == AttemptState.PROVISIONING
    await by_hand.database.write(runs.ask_to_end, by_hand.submission.run_id, "ada", True)
    # From here on nobody but the reconciler itself wakes it: the request's own wake was this first look.
    by_hand.woken.clear()
    await by_hand.reconciler.reconcile(by_hand.key)
    assert await by_hand.state() == AttemptState.RUNNING
    assert by_hand.key in by_hand.woken
    await by_hand.reconciler.reconcile(by_hand.key)
    wait_until((pid.parent / "exit").exists, what="the end of the job")
    await by_hand.reconciler.reconcile(by_hand.key)
    assert await by_hand.state() == AttemptState.ABORTED
