"""1,000 rented machines: how soon changes are acted on, what waiting costs, the vendor's limits, kill -9.

``python -m benchmarks machines``; DJ_BENCH_MACHINES=60 for fewer. The vendor is a process of its own that speaks DigitalOcean's
API over HTTP; what is measured is the real backend, its HTTP client and its pace, and a real engine process on SQLite. Only the
machines are simulated (``rented.engine``): no SSH, so the memory and CPU of connections are in ``hosts``, not here. CPU is that
of the engine's process alone. Moments are taken where they happen: calls as the vendor's process sees them arrive.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy
import yaml

from dstack_jupyter.client import Client, Run
from dstack_jupyter.engine.store.location import ENV_DATABASE
from dstack_jupyter.engine.store.schema import attempts, cloud_instances, instances
from dstack_jupyter.models import endpoint
from dstack_jupyter.models.home import Home, write_private
from dstack_jupyter.models.runs import ApplyRequest, Context

from .engine import cpu, resident
from .harness import Figure, quantile
from .rented.vendor import TOKEN, Vendor, vendor

COUNT = int(os.environ.get("DJ_BENCH_MACHINES", "1000"))
SUBMITTERS = 8
IDLE = 60.0
SAMPLES = 100
"""Changes of each kind, one every ``APART`` seconds."""
APART = 0.05
LIMIT, WINDOW = 250, 60.0
LIMITED = 185.0
"""Seconds under the vendor's limits: three windows and a little."""


@dataclass
class Site:
    """A user's folder with its engine, which can be killed and started again."""

    folder: Path
    vendor: Vendor
    limited: bool = False
    runs: list[Run] = field(default_factory=list)
    sent: dict[str, float] = field(default_factory=dict)
    """Run id → when its submit began."""

    def __post_init__(self) -> None:
        self.home = Home(self.folder / "state")
        self.jobs = self.folder / "jobs"
        self.jobs.mkdir(parents=True)
        entry = {"type": "digitalocean", "creds": {"type": "api_key", "api_key": TOKEN}}
        config = self.folder / ".dstack" / "server" / "config.yml"
        config.parent.mkdir(parents=True)
        write_private(config, yaml.safe_dump({"projects": [{"name": "main", "backends": [entry]}]}).encode())
        self.client = Client(self.home, start=False)
        self.start()

    def start(self) -> None:
        env = {key: value for key, value in os.environ.items() if key != ENV_DATABASE}
        env |= {
            "HOME": str(self.folder),
            "DSTACK_JUPYTER_HOME": str(self.home.root),
            "DSTACK_JUPYTER_DIGITALOCEAN_ENDPOINT": self.vendor.url,
        }
        command = [sys.executable, "-m", "benchmarks.rented.engine", str(self.jobs), *([] if self.limited else ["unlimited"])]
        self.process = subprocess.Popen(command, env=env, start_new_session=True)
        until(lambda: (found := endpoint.read(self.home)) is not None and found.pid == self.process.pid, 90, "no engine")

    def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        self.process.wait(60)

    def submit(self, count: int) -> None:
        """``count`` runs, from ``SUBMITTERS`` threads."""

        def one(_: int) -> None:
            configuration = {"type": "task", "commands": ["sleep infinity"], "backends": ["digitalocean"], "max_price": 0.1}
            began = time.time()
            request = ApplyRequest(configuration=configuration, request_key=secrets.token_hex(8), context=Context(cwd="/"))
            run = self.client.apply(request)
            self.sent[run.id] = began
            self.runs.append(run)

        with ThreadPoolExecutor(SUBMITTERS) as pool:
            list(pool.map(one, range(count)))

    def warm(self) -> None:
        """The first run pays for what is loaded once: offers, modules, the key at the vendor. It goes on to run."""
        for _ in range(10):
            self.submit(1)
            until(lambda: self.runs[-1].refresh().ended or self.states().get("running", 0) > 0, 60, "the first run waits")
            if not self.runs[-1].ended:
                return
            self.sent.pop(self.runs.pop().id)
        raise SystemExit(f"the first run: {self.states()}")

    def states(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for state in self._rows("state"):
            found[state] = found.get(state, 0) + 1
        return found

    def _rows(self, what: str) -> list[str]:
        with self._database() as connection:
            return [row[0] for row in connection.execute(sqlalchemy.select(attempts.c[what]))]

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlalchemy.Connection]:
        made = sqlalchemy.create_engine(f"sqlite:///file:{self.home.store}?mode=ro&uri=true")
        try:
            with made.connect() as connection:
                yield connection
        finally:
            made.dispose()

    def machines(self) -> dict[str, tuple[str, str]]:
        """Run id → (its attempt, the identity of its machine)."""
        wanted = sqlalchemy.select(attempts.c.run_id, attempts.c.id, instances.c.identity)
        with self._database() as connection:
            found = connection.execute(wanted.join(instances, instances.c.attempt_id == attempts.c.id))
            return {run: (attempt, identity) for run, attempt, identity in found}

    def asked(self) -> set[str]:
        """The identities of those whose create is stored as sent, and not as answered."""
        made = instances.join(cloud_instances, cloud_instances.c.instance_id == instances.c.id)
        unanswered = cloud_instances.c.create_sent_at.is_not(None) & cloud_instances.c.rented_at.is_(None)
        with self._database() as connection:
            found = connection.execute(sqlalchemy.select(instances.c.identity).select_from(made).where(unanswered))
            return {row.identity for row in found}

    def end_job(self, attempt: str) -> None:
        """A job ends by itself, whether or not an engine is there to hear of it."""
        (self.jobs / f"{attempt}.ended").touch()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as news:
            news.sendto(attempt.encode(), str(self.jobs / "news"))


def until(found: Callable[[], bool], timeout: float, what: str, every: float = 0.05) -> None:
    deadline = time.monotonic() + timeout
    while not found():
        if time.monotonic() > deadline:
            raise SystemExit(what)
        time.sleep(every)


@contextlib.contextmanager
def site(*, limited: bool = False) -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="dj-bench-") as name, vendor(Path(name)) as account:
        made = Site(Path(name) / "user", account, limited)
        try:
            made.warm()
            yield made
        finally:
            made.end(signal.SIGKILL)


def spread(name: str, waits: list[float], wanted: int, note: str = "", goal: float | None = 2.0) -> list[Figure]:
    """p50 and p99 of what was seen; that some were never seen is a missed goal."""
    if len(waits) < wanted:
        return [Figure(f"{name}: seen of {wanted}", len(waits), "", wanted, at_least=True)]
    more = f"p50 {quantile(waits, 0.5):.2f} s, most {max(waits):.2f} s{'; ' if note else ''}{note}"
    return [Figure(f"{name}, p99", quantile(waits, 0.99), "s", goal, note=more)]


def submits(made: Site) -> list[Figure]:
    before, began = resident(made.process.pid), cpu(made.process.pid)
    made.submit(COUNT - 1)
    until(lambda: made.vendor.made() >= COUNT, 180, "not all were created", 0.5)
    created = made.vendor.diary().creates
    machines = made.machines()
    waits = [min(created[machines[run][1]]) - sent for run, sent in made.sent.items() if machines[run][1] in created]
    until(lambda: made.states().get("running", 0) == COUNT, 180, f"not all run: {made.states()}", 0.5)
    used = cpu(made.process.pid) - began
    last = max(made.sent.values())
    all_run = time.time() - last
    time.sleep(3)
    grown = resident(made.process.pid) - before
    return [
        *spread(f"{COUNT} submits: submit → create at the vendor", waits, COUNT, goal=5.0),
        Figure("  all of them running after the last submit", all_run, "s", note=f"{used:.0f} s of CPU"),
        Figure("  memory a run that is active", grown / max(1, COUNT - 1), "MB", 0.5, note=f"{before:.0f} MB before"),
    ]


def idle(made: Site) -> list[Figure]:
    made.vendor.ask("forget")
    began = cpu(made.process.pid)
    time.sleep(IDLE)
    used = (cpu(made.process.pid) - began) / IDLE * 100
    calls = len(made.vendor.diary().calls) / IDLE * 3600
    return [
        Figure(f"{COUNT} active, nothing changes: CPU of a core", used, "%", 20),
        Figure("  calls to the vendor", calls, "/h", 5000, note="its limit is 5,000 an hour"),
    ]


def changes(made: Site) -> list[Figure]:
    """Each change acted on at the vendor. Three parts of the runs: their jobs end, they are stopped, their machines power off."""
    machines = made.machines()
    runs = [run for run in made.runs if run.id in machines]
    each = min(SAMPLES, len(runs) // 4)
    made.vendor.ask("forget")
    ended, stopped = dict[str, float](), dict[str, float]()

    def stop(run: Run) -> None:
        stopped[machines[run.id][1]] = time.time()
        run.stop()

    with ThreadPoolExecutor(SUBMITTERS) as pool:
        for ending, stopping in zip(runs[:each], runs[each : 2 * each], strict=True):
            attempt, identity = machines[ending.id]
            ended[identity] = time.time()
            made.end_job(attempt)
            pool.submit(stop, stopping)
            time.sleep(APART)
    off = [machines[run.id][1] for run in runs[2 * each : 3 * each]]
    powered = time.time()
    made.vendor.ask("power-off", off)
    deadline = time.monotonic() + 90
    while (diary := made.vendor.diary()) and time.monotonic() < deadline:
        if len(diary.deletes) >= 2 * each and len(diary.starts) >= each:
            break
        time.sleep(0.5)

    def waits(began: dict[str, float], acts: dict[str, list[float]] = diary.deletes) -> list[float]:
        return [min(acts[name]) - when for name, when in began.items() if name in acts]

    told = {name: diary.off[name] for name in off if name in diary.off}
    whole = quantile(waits(dict.fromkeys(off, powered), diary.starts) or [0.0], 0.99)
    polled = f"the whole, with the wait for a look: p99 {whole:.0f} s"
    twice = sum(len(times) - 1 for times in diary.deletes.values())
    return [
        *spread("a job has ended → delete at the vendor", waits(ended), each, f"{twice} deletes twice"),
        *spread("a user's stop → delete at the vendor", waits(stopped), each),
        *spread("the vendor's answer 'off' → start at the vendor", waits(told, diary.starts), each, polled),
    ]


def killed() -> list[Figure]:
    """Killed while half are made; a tenth of the jobs end meanwhile. Looked after again: all run, or their machines are ended.

    A create that the kill caught on its way, sent or about to be and never heard of at the vendor, is counted apart: it is asked
    for again and again, and repeated only when ``Traits.settles`` has proved that it made nothing, or there could be two.
    """
    with site() as made:
        made.submit(COUNT - 1)
        until(lambda: made.vendor.made() >= COUNT // 2, 180, "not created", 0.01)
        until(lambda: made.states().get("running", 0) >= COUNT // 10, 180, "none run", 0.1)
        made.end(signal.SIGKILL)
        states, on_the_way = made.states(), made.asked() - made.vendor.diary().creates.keys()
        created = made.vendor.made()
        over = [path.stem for path in list(made.jobs.glob("*.began"))[: COUNT // 10]]
        for attempt in over:
            made.end_job(attempt)
        ending = {identity for attempt, identity in made.machines().values() if attempt in over}
        time.sleep(2)
        began = time.time()
        made.start()
        made.client.info()

        def looked_after(all_but: int) -> Callable[[], bool]:
            wanted = COUNT - len(over) - all_but
            return lambda: made.states().get("running", 0) >= wanted and ending <= made.vendor.diary().deletes.keys()

        until(looked_after(len(on_the_way)), 240, f"not all are looked after: {made.states()}", 0.25)
        seconds = time.time() - began
        until(looked_after(0), 240, f"not all are made: {made.states()}", 0.25)
        whole = time.time() - began
        twice = sum(len(times) - 1 for times in made.vendor.diary().creates.values())
    note = f"{created} were created, {states.get('running', 0)} ran, {len(over)} jobs ended meanwhile"
    return [
        Figure(f"kill -9 with {COUNT}: start → all looked after", seconds, "s", 30, note=note),
        Figure("  creates that it caught on their way", len(on_the_way), "", note=f"start → all made: {whole:.1f} s"),
        Figure("  second creates", twice, "", 0),
    ]


def limits() -> list[Figure]:
    with site(limited=True) as made:
        made.submit(COUNT - 1)
        first = min(made.vendor.diary().calls)
        time.sleep(max(0.0, first + LIMITED - time.time()))
        diary = made.vendor.diary()
    calls = diary.calls
    most = max(sum(when - WINDOW < each <= when for each in calls) for when in calls[:: max(1, len(calls) // 400)])
    most = max(most, *(sum(start <= each < start + WINDOW for each in calls) for start in calls[:: max(1, len(calls) // 400)]))
    windows = int((calls[-1] - first) // WINDOW)
    used = sum(first <= each < first + windows * WINDOW for each in calls) / (windows * LIMIT) * 100
    note = f"{len(calls)} calls in {calls[-1] - first:.0f} s, {len(diary.creates)} of {COUNT} machines"
    return [
        Figure(f"{LIMIT} calls a minute allowed: share used", used, "%", 90 if COUNT > LIMIT else None, at_least=True, note=note),
        Figure("  most calls in any minute, by the vendor's count", most, "", LIMIT),
    ]


def figures() -> Iterator[Figure]:
    with site() as made:
        yield from submits(made)
        yield from idle(made)
        yield from changes(made)
    yield from killed()
    yield from limits()
