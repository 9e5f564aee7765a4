"""What must hold at the end of every trial, whatever crashed: R1–R5, R13, R15 as far as runs, jobs, logs and hosts go.

Judged by what the machines of the world themselves did and printed, against what the store says of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.simulated.world import World

from .judge_rented import RentedJudge
from .scenarios import Scenario
from .stores import Store
from .story import Heard, Story

ENDS = {
    "runs": ("terminated", "failed", "done"),
    "attempts": ("terminated", "aborted", "failed", "done"),
    "instances": ("terminated",),
    "fleets": ("terminated",),
}


class Judge:
    """Watches one trial. ``breaches`` are sentences; none is what is promised."""

    def __init__(self, store: Store, world: World) -> None:
        self._store = store
        self._world = world
        self._ended: dict[tuple[str, str], tuple[Any, ...]] = {}
        self.breaches: list[str] = []
        world.on_launch = self._launching
        self._rented = RentedJudge(store, world, self._claim)

    def _claim(self, holds: object, sentence: str) -> None:
        if not holds and sentence not in self.breaches:
            self.breaches.append(sentence)

    def _launching(self, attempt_id: str) -> None:
        """At the moment at which a machine is told to begin."""
        found = self._store.rows("SELECT state, instance_id FROM attempts WHERE id = ?", attempt_id)
        self._claim(found, "a job was launched that the store does not know")
        if found:
            self._claim(found[0]["instance_id"], "a job was launched before its booking was stored")
            self._claim(found[0]["state"] in ("provisioning", "pulling", "running"), f"a {found[0]['state']} job was launched")

    def between(self) -> None:
        """After a crash, and at the end: who has reached an end stands as it stood (R4); at most one of each lives (R2)."""
        for table, ends in ENDS.items():
            columns = "id, state, reason, exit_code" if table in ("runs", "attempts") else "id, state"
            for row in self._store.rows(f"SELECT {columns} FROM {table}"):
                if row["state"] in ends:
                    now = tuple(row.values())
                    before = self._ended.setdefault((table, row["id"]), now)
                    self._claim(before == now, f"{table}: {before} became {now}")
        twice = self._store.rows(
            "SELECT attempt_id FROM instances WHERE state <> 'terminated' AND attempt_id IS NOT NULL "
            "GROUP BY attempt_id HAVING count(*) > 1"
        )
        self._claim(not twice, "an attempt has two active instances")
        shared = self._store.rows("SELECT instance_id, block FROM bookings GROUP BY instance_id, block HAVING count(*) > 1")
        self._claim(not shared, "a block of a host is booked twice")
        living: dict[str, int] = {}
        for job in self._world.jobs():
            self._claim(job.executions <= 1, "a job's body was executed twice in one attempt")
            if job.lives:
                name = job.spec.env.get("DSTACK_JOB_ID", "")
                living[name] = living.get(name, 0) + 1
        self._claim(all(count == 1 for count in living.values()), "two attempts of one job ran at the same time")
        self._rented.between()
        machines = [vm.identity for vm in self._world.vms if vm.gone is None and not vm.twin]
        if len(machines) > 1:
            rows = self._store.rows("SELECT identity, attempt_id FROM instances")
            known = [row for row in rows if row["identity"] in machines]
            served = [row["attempt_id"] for row in known if row["attempt_id"] is not None]
            self._claim(len(known) == len(machines), "a machine costs money that the store does not know")
            self._claim(len(served) == len(set(served)), "an attempt has two machines that cost money")

    def at_the_end(self, scenario: Scenario, story: Story) -> None:
        self.between()
        runs = {row["name"]: row for row in self._store.rows("SELECT * FROM runs")}
        self._claim(len(runs) == len(self._store.rows("SELECT id FROM runs")), "one request made two runs")
        self._claim(story.submitted == set(runs), f"submitted were {story.submitted}, stored are {set(runs)}")
        for name, wanted in scenario.ends.items():
            found = runs.get(name, {"state": "not there"})
            self._claim(found["state"] in wanted.split(), f"run {name} ended {found['state']}, not {wanted}: {found}")
            heard = story.heard.get(name)
            self._claim(heard is None or heard.ended == found["state"], f"the follower of {name} was told {heard}")
        self._bodies(scenario, runs)
        self._logs(story.heard.values())
        self._nothing_left()

    def of_everything(self) -> None:
        """At the end of a history that nobody wrote: every run has ended, and its end is what its machines saw."""
        self.between()
        for row in self._store.rows("SELECT * FROM runs"):
            self._claim(row["state"] in ENDS["runs"], f"run {row['name']} is {row['state']} for ever")
            self._claim(row["desired"] == "running" or row["state"] != "running", "a stop was lost")
            attempts = {each["id"]: each for each in self._store.rows("SELECT * FROM attempts WHERE run_id = ?", row["id"])}
            self._exit_codes(attempts)
            if row["state"] == "done":
                done = [each for each in attempts.values() if each["state"] == "done"]
                bodies = {job.spec.attempt_id for job in self._world.jobs() if job.executions}
                self._claim(done and all(each["id"] in bodies for each in done), "a run is done that never ran")
        self._logs([])
        self._nothing_left()

    def _exit_codes(self, attempts: dict[str, dict[str, Any]]) -> None:
        lost = {vm.identity for vm in self._world.vms if vm.lost}
        for job in self._world.jobs():
            row = attempts.get(job.spec.attempt_id)
            if row is None or job.ending is None or not job.executions or job.host.name in lost:
                continue
            if row["exit_code"] is not None:
                self._claim(row["exit_code"] == job.ending.exit_code, "the store has another exit code than the machine")
            if not job.ending.cause and row["state"] in ("done", "failed"):
                self._claim(row["exit_code"] == job.ending.exit_code, "an exit code was lost")

    def _bodies(self, scenario: Scenario, runs: dict[str, Any]) -> None:
        for name, wanted in scenario.bodies.items():
            run = runs.get(name)
            if run is None:
                continue
            attempts = self._store.rows("SELECT * FROM attempts WHERE run_id = ?", run["id"])
            known = {row["id"] for row in attempts}
            jobs: dict[str, int] = {row["job_id"]: 0 for row in attempts}
            for job in self._world.jobs():
                if job.spec.attempt_id in known and job.executions:
                    jobs[job.spec.env["DSTACK_JOB_ID"]] += job.executions
            for job_id, count in jobs.items():
                fits = count <= wanted if name in scenario.open_end else count == wanted
                self._claim(fits, f"job {job_id[-4:]} of {name} was executed {count} times, not {wanted}")
            self._exit_codes({row["id"]: row for row in attempts})
        everything = {row["id"] for row in self._store.rows("SELECT id FROM attempts")}
        self._claim(all(job.spec.attempt_id in everything for job in self._world.jobs()), "a machine has a job of nobody's")

    def _logs(self, followers: Iterable[Heard]) -> None:
        everywhere = list(followers)
        lost = {vm.identity for vm in self._world.vms if vm.lost}
        for job in self._world.jobs():
            if not job.executions:
                continue
            chunks = self._store.rows('SELECT * FROM log_chunks WHERE attempt_id = ? ORDER BY "offset"', job.spec.attempt_id)
            data, end, gap = bytearray(), 0, 0
            for chunk in chunks:
                self._claim(chunk["offset"] == end, f"stored bytes do not join at {end}")
                end = chunk["offset"] + chunk["length"]
                if chunk["data"] is None:
                    gap += chunk["length"]
                    self._claim(chunk["reason"], "a gap without its reason")
                else:
                    self._claim(len(chunk["data"]) == chunk["length"], "a chunk of another length than it says")
                    data += bytes(chunk["data"])
            whole = job.log.startswith(data) if job.host.name in lost else data == job.log
            self._claim(whole, f"the log has {len(data)} bytes, the machine has {len(job.log)}")
            dropped = job.ending.dropped if job.ending else 0
            self._claim(gap == dropped, f"{dropped} bytes were discarded, the gap says {gap}")
            offset = self._store.rows("SELECT log_offset FROM attempts WHERE id = ?", job.spec.attempt_id)[0]["log_offset"]
            self._claim(offset == end, f"the offset is {offset}, stored are {end}")
            for heard in everywhere:
                if job.spec.attempt_id in heard.logs:
                    self._claim(heard.logs[job.spec.attempt_id] == data, "a follower did not get the log as it is")

    def _nothing_left(self) -> None:
        self._claim(not any(job.lives for job in self._world.jobs()), "a job runs on that nobody waits for")
        self._rented.at_the_end()
        for table in ("bookings", "gpu_claims"):
            self._claim(not self._store.rows(f"SELECT * FROM {table}"), f"{table} are left")
        open_fleets = self._store.rows("SELECT id FROM fleets WHERE run_id IS NOT NULL AND state <> 'terminated'")
        self._claim(not open_fleets, "a run's fleet was not closed")
        left = self._store.rows(
            "SELECT i.state FROM instances i JOIN fleets f ON f.id = i.fleet_id "
            "WHERE f.run_id IS NOT NULL AND i.state <> 'terminated'"
        )
        self._claim(not left, "an instance of a run is left")
        busy = self._store.rows("SELECT state FROM instances WHERE backend = 'ssh' AND state NOT IN ('idle', 'terminated')")
        self._claim(not busy, f"a host of the desk is left {busy}")
        desk = self._store.rows("SELECT id FROM fleets WHERE run_id IS NULL AND state <> 'terminated'")
        if not desk:
            claims = [host.name for host in self._world.hosts.values() if host.claim]
            self._claim(not claims, f"{claims} are still claimed")
        events = self._store.rows("SELECT run_id, action FROM events WHERE kind = 'run' ORDER BY seq")
        for run in {row["run_id"] for row in events}:
            actions = [row["action"] for row in events if row["run_id"] == run]
            self._claim(actions.count("submitted") >= 1, "a run without its first event")
            ends = [action for action in actions if action in ENDS["runs"]]
            self._claim(len(ends) == 1, f"a run's events tell {len(ends)} ends")
