"""What must hold of rented machines, whatever crashed: R1–R3, R6, R9–R11 against what the vendor itself has and charges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.simulated.backend import TRAITS
from tests.simulated.world import World

from .stores import Store

IN_FLIGHT = 1.0
"""Seconds in which a create may be on its way to the vendor when a stop is stored."""
CLOCKS = 1.0
"""Seconds by which the store may count less than the vendor charges, at either end."""
WITHIN = 660.0
"""Seconds after a stop, or after the vendor's last fault, in which all of a run's machines are gone (R6)."""


class RentedJudge:
    """Part of ``judge.Judge``, which lends it ``claim``."""

    def __init__(self, store: Store, world: World, claim: Callable[[object, str], None]) -> None:
        self._store = store
        self._world = world
        self._claim = claim
        world.on_create = self._creating
        world.on_attach = self._attaching

    def _creating(self, identity: str) -> None:
        """At the moment at which a vendor is asked for a machine (R1, R2, R6)."""
        found = self._store.rows(
            "SELECT i.state, i.attempt_id, r.create_sent_at, r.ending_at FROM instances i "
            "LEFT JOIN cloud_instances r ON r.instance_id = i.id WHERE i.identity = ?",
            identity,
        )
        self._claim(found, "a machine was created whose intent is not stored")
        if not found:
            return
        row, now = found[0], self._world.time.now
        self._claim(row["create_sent_at"] is not None, "a create was sent that was not stored as sent")
        self._claim(row["state"] != "terminated", "a machine was created that the store calls terminated")
        self._claim(now - (row["ending_at"] or now) <= IN_FLIGHT, "a create was sent for a machine that was to end")
        others = self._store.rows(
            "SELECT identity FROM instances WHERE attempt_id = ? AND identity <> ?", row["attempt_id"], identity
        )
        alive = {vm.identity for vm in self._world.vms if vm.gone is None}
        self._claim(not alive & {each["identity"] for each in others}, "a second machine was asked for while the first one lives")
        stops = self._store.rows(
            "SELECT e.at FROM events e JOIN attempts a ON a.run_id = e.run_id JOIN runs r ON r.id = a.run_id "
            "WHERE a.id = ? AND e.kind = 'run' AND e.action IN ('stop', 'abort') AND r.desired <> 'running'",
            row["attempt_id"],
        )
        self._claim(all(now - each["at"] <= IN_FLIGHT for each in stops), "a create was sent for a run that was stopped")

    def _attaching(self, identity: str) -> None:
        found = self._store.rows("SELECT identity FROM cloud_resources WHERE identity = ?", identity)
        self._claim(found, "a thing was attached whose row is not stored")

    def between(self) -> None:
        """At any moment: what costs money is known as living, and each identity was made once."""
        states = {row["identity"]: row["state"] for row in self._store.rows("SELECT identity, state FROM instances")}
        for vm in self._world.vms:
            known = states.get(vm.identity, "not there")
            self._claim(known != "not there", "a machine was made that the store does not know")
            if vm.gone is None and not vm.twin:
                self._claim(known != "terminated", "a machine lives at the vendor that the store calls terminated")
        made = Counter(vm.identity for vm in self._world.vms if not vm.twin)
        self._claim(all(count == 1 for count in made.values()), "two machines were made for one identity")

    def at_the_end(self) -> None:
        """What the store counts covers what the vendor charges, and nothing is left."""
        self._claim(all(vm.gone is not None for vm in self._world.vms), "a machine was left that costs money")
        rows = self._store.rows(
            "SELECT i.identity, i.price, i.finished_at, r.rented_at "
            "FROM instances i JOIN cloud_instances r ON r.instance_id = i.id"
        )
        known = {row["identity"]: row for row in rows}
        for vm in self._world.vms:
            row = known.get(vm.identity)
            if row is None or vm.gone is None or vm.twin:
                continue
            self._claim(row["price"], "a machine is rented whose price is not stored")
            begun = row["rented_at"] is not None and row["rented_at"] <= vm.made + CLOCKS
            self._claim(begun, "a machine was paid for before the store counted it")
            ended = row["finished_at"] is not None and row["finished_at"] >= vm.gone - CLOCKS
            self._claim(ended, "a machine was paid for after the store had ceased to count it")
        made = {vm.identity for vm in self._world.vms}
        counted = [row for row in rows if row["rented_at"] is not None and row["identity"] not in made]
        self._claim(not counted, "a machine is counted that never was")
        self._stops()
        self._things()
        self._truncated()

    def _stops(self) -> None:
        """A stop that was answered wins: what was asked for before it is gone soon after, and nothing was asked for later."""
        rows = self._store.rows(
            "SELECT i.identity, e.at FROM instances i JOIN attempts a ON a.id = i.attempt_id "
            "JOIN events e ON e.run_id = a.run_id AND e.kind = 'run' AND e.action IN ('stop', 'abort')"
        )
        asked: dict[str, Any] = {row["identity"]: row["at"] for row in rows}
        for vm in self._world.vms:
            if vm.made - vm.asked > TRAITS.settles:
                continue  # Later than any engine waits for it: what sweeps are for, which take two rounds.
            if vm.identity in asked and vm.gone is not None:
                late = max(asked[vm.identity], self._world.faults.over)
                self._claim(vm.gone <= late + WITHIN, "ten minutes after its stop a run still costs")

    def _truncated(self) -> None:
        """A log whose rest went with its machine says where it ends (R13)."""
        for row in self._store.rows("SELECT log_offset, message FROM attempts"):
            said = not row["message"].startswith("the machine was lost") or f"up to byte {row['log_offset']}" in row["message"]
            self._claim(said, "a log whose rest was lost does not say where it ends")

    def _things(self) -> None:
        told = self._world.late_things & {row["identity"] for row in self._store.rows("SELECT identity FROM orphans")}
        # One that a dead engine's call makes after all was taken away is not ours to guess at: it is reported (R11).
        left = [identity for identity, kind in self._world.resources.items() if kind != "key" and identity not in told]
        self._claim(not left, f"{len(left)} things of machines were left at the vendor, and nobody says so")
        rows = self._store.rows("SELECT identity FROM cloud_resources WHERE instance_id IS NOT NULL")
        self._claim(not rows, "rows of things are left whose machines are gone")
