"""A simulated cloud without a vendor's face: machines with identities, latencies and faults, over virtual or real time.

A face (``digitalocean.py``) speaks a vendor's HTTP over it. A backing decides what a machine is: pure state, or a real system
container (``real.py``).
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Unix time."""


class RealClock:
    def now(self) -> float:
        return time.time()


class VirtualClock:
    """Time that passes when a test says so."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


@dataclass(slots=True)
class Machine:
    """``status``: starting, running, stopped, ending; a machine that is gone is not in the cloud any more."""

    id: int
    name: str
    size: str
    region: str
    image: str
    user_data: str
    created_at: float
    gpu: bool = False
    project: str = ""
    status: str = "starting"
    address: str = ""
    internal: str = ""
    ends_at: float | None = None
    more: dict[str, Any] = field(default_factory=dict)


class Backing(Protocol):
    """What a machine is made of. Called by the cloud, under its lock."""

    def begin(self, machine: Machine) -> None:
        """A machine was accepted: begin to boot it."""

    def look(self, machine: Machine, now: float) -> None:
        """Bring ``status``, ``address`` and ``internal`` up to date."""

    def start(self, machine: Machine) -> None:
        """A machine that is off boots again."""

    def end(self, machine: Machine) -> None:
        """The machine is deleted."""


class Pure:
    """Machines that are state only: an address after some seconds, running after some more. Addresses are used again at once,
    as vendors do."""

    def __init__(self, address_after: float = 5.0, running_after: float = 20.0) -> None:
        self.address_after = address_after
        self.running_after = running_after
        self._free = [f"198.18.{number >> 8}.{number & 255}" for number in range(4096, 0, -1)]

    def begin(self, machine: Machine) -> None:
        machine.more["lease"] = self._free.pop()

    def look(self, machine: Machine, now: float) -> None:
        age = now - machine.created_at
        if age >= self.address_after and not machine.more.get("no_address"):
            machine.address = machine.more["lease"]
            machine.internal = "10.0.0." + machine.address.rpartition(".")[2]
        if machine.status == "starting" and age >= self.running_after and not machine.more.get("never_boots"):
            machine.status = "running"

    def start(self, machine: Machine) -> None:
        machine.status = "starting"

    def end(self, machine: Machine) -> None:
        self._free.append(machine.more["lease"])


class Switches:
    """Faults, each armed by its name for a number of times. ``taken`` counts how often each really happened.

    What a name means is said where it is asked for: ``SWITCHES`` of ``core`` and of the faces.
    """

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known
        self.taken: dict[str, int] = {}
        self._armed: dict[str, tuple[float, Any]] = {}

    def arm(self, name: str, value: Any = True, times: float = 1) -> None:
        """The next ``times`` occasions go wrong in this way; ``float('inf')`` until ``disarm``."""
        assert name in self.known, f"no fault is called {name}: {', '.join(self.known)}"
        self._armed[name] = (times, value)

    def disarm(self, name: str) -> None:
        self._armed.pop(name, None)

    def take(self, name: str) -> Any:
        """The value of an armed fault, None if it is not armed. Asking is what counts as an occasion."""
        times, value = self._armed.get(name, (0, None))
        if times < 1:
            return None
        self._armed[name] = (times - 1, value)
        self.taken[name] = self.taken.get(name, 0) + 1
        return value


SWITCHES = {
    "made, answer lost": "a create is carried out and the connection is cut before the answer",
    "not made, connection cut": "a create is read and the connection is cut; nothing was made",
    "made, answers 500": "a create is carried out and answered with a server error",
    "not made, answers 500": "a create is answered with a server error and nothing was made",
    "made, answers nonsense": "a create is carried out and answered with half a JSON text",
    "answer waits": "a create is carried out and its answer comes when this threading.Event is set",
    "made twice": "one create makes two machines of the name",
    "no capacity": "a create of this size (or any: True) is refused as sold out",
    "no quota": "a create is refused for a limit of the account",
    "no balance": "a create is refused since the account owes money",
    "lists lag": "machines younger than so many seconds are in no list",
    "get lags": "a machine younger than so many seconds is not found by its id",
    "delete lies": "a delete is answered with 'not found' though the machine is there",
    "delete is slow": "a deleted machine goes on being listed for so many seconds",
    "delete fails": "a delete is answered with a server error and nothing happens",
    "list is cut": "a list is answered with a page that lacks entries which its total counts",
    "never boots": "a machine stays in its first state",
    "no address": "a machine has no address, ever",
    "rate limit": "a call is refused as one too many; wait so many seconds",
    "answers 500": "a call that makes nothing is answered with a server error",
    "moved": "every call is answered with a redirect to this host",
}


class CloudError(Exception):
    """What the core refuses; a face says it in its vendor's words. ``kind``: capacity, quota, balance."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class Cloud:
    """The machines of one account. Safe on any thread."""

    def __init__(
        self, backing: Backing | None = None, clock: Clock | None = None, switches: dict[str, str] | None = None
    ) -> None:
        self.backing = backing or Pure()
        self.clock = clock or VirtualClock()
        self.faults = Switches(SWITCHES | (switches or {}))
        self.machines: dict[int, Machine] = {}
        self.ended: list[Machine] = []
        self.quota = 25
        self._ids = itertools.count(412_000_001, 7)
        self._lock = threading.RLock()

    @contextmanager
    def _now(self) -> Iterator[float]:
        """Everything is brought up to date before it is looked at."""
        with self._lock:
            now = self.clock.now()
            for machine in list(self.machines.values()):
                if machine.ends_at is not None and now >= machine.ends_at:
                    self._gone(machine)
                else:
                    self.backing.look(machine, now)
            yield now

    def _gone(self, machine: Machine) -> None:
        self.backing.end(machine)
        del self.machines[machine.id]
        self.ended.append(machine)

    def create(self, **wanted: Any) -> Machine:
        """Raises CloudError."""
        with self._now() as now:
            sold_out = self.faults.take("no capacity")
            if sold_out is not None and sold_out in (True, wanted["size"]):
                raise CloudError("capacity")
            if self.faults.take("no balance"):
                raise CloudError("balance")
            if len(self.machines) >= self.quota or self.faults.take("no quota"):
                raise CloudError("quota")
            made = [self._begin(now, wanted) for _ in range(2 if self.faults.take("made twice") else 1)]
            return made[0]

    def _begin(self, now: float, wanted: dict[str, Any]) -> Machine:
        machine = Machine(id=next(self._ids), created_at=now, **wanted)
        for fault in ("never boots", "no address"):
            if self.faults.take(fault):
                machine.more[fault.replace(" ", "_")] = True
        self.machines[machine.id] = machine
        self.backing.begin(machine)
        return machine

    def listed(self) -> list[Machine]:
        with self._now() as now:
            lag = self.faults.take("lists lag") or 0.0
            return [machine for machine in self.machines.values() if now - machine.created_at >= lag]

    def get(self, number: int) -> Machine | None:
        with self._now() as now:
            machine = self.machines.get(number)
            if machine is None or now - machine.created_at < (self.faults.take("get lags") or 0.0):
                return None
            return machine

    def delete(self, number: int) -> bool:
        """False if there is no such machine, or it is said that there is none."""
        with self._now() as now:
            machine = self.machines.get(number)
            if machine is None or self.faults.take("delete lies"):
                return False
            slow = self.faults.take("delete is slow")
            if slow is None:
                self._gone(machine)
            else:
                machine.status, machine.ends_at = "ending", now + slow
            return True

    def start(self, number: int) -> None:
        """A machine that is off boots again, with its disk and addresses."""
        with self._now():
            self.backing.start(self.machines[number])

    def settle(self) -> None:
        """Bring everything up to date."""
        with self._now():
            pass

    def empty(self) -> None:
        """End every machine: for the end of a test."""
        with self._lock:
            for machine in list(self.machines.values()):
                self._gone(machine)
