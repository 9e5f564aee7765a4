"""Hosts, jobs and rented machines that live on whatever happens to engines, with the truth about them for a judge."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from dstack_jupyter.machines.base import Ending, JobSpec

from . import shell
from .faults import VM, Faults

TermSteps = tuple[shell.Step, ...] | None
Programs = dict[str, Callable[["Job", str], list[shell.Step]]]

SILENCE = 1800.0
"""Seconds without a word from any engine after which a rented machine without a job powers itself off."""


class Time(Protocol):
    @property
    def now(self) -> float: ...

    def at(self, when: float, function: Callable[[], object]) -> None: ...


class LoopTime:
    """The time of an ordinary loop, for tests that run in real time."""

    @property
    def now(self) -> float:
        return time.time()

    def at(self, when: float, function: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_later(max(0.0, when - self.now), function)


@dataclass
class Job:
    """One attempt on a host. ``log`` is what its machine kept, ``printed`` what it said altogether: what a judge compares."""

    host: Host
    spec: JobSpec
    log: bytearray = field(default_factory=bytearray)
    printed: int = 0
    executions: int = 0
    began: float | None = None
    ended: float | None = None
    ending: Ending | None = None
    boot: int = 0
    killed: bool = False
    """Its supervisor was killed from outside, or its machine went down: it can never tell how it ended."""
    _steps: list[shell.Step] = field(default_factory=list)
    _term: TermSteps = None
    _turn: int = 0
    _forever: bool = False
    _cause: str = ""

    @property
    def over(self) -> bool:
        return self.ending is not None or self.killed

    @property
    def lives(self) -> bool:
        return self.began is not None and not self.over

    def begin(self) -> None:
        """The supervisor starts; a second one ends at once."""
        if self.began is not None or self.over:
            return
        self.began, self.boot, self.executions = self.host.time.now, self.host.boot, self.executions + 1
        self._steps = shell.steps(self.spec.commands, self.spec.env)
        if self.spec.max_duration:
            self.host.time.at(self.began + self.spec.max_duration, self._overdue)
        self._go(self._turn)

    def _overdue(self) -> None:
        if self.lives:
            self._cause = self._cause or "max_duration"
            self.terminate()

    def _go(self, turn: int) -> None:
        if turn != self._turn or not self.lives:
            return
        while self._steps:
            match self._steps.pop(0):
                case shell.Say(data):
                    self._say(data)
                case shell.Sleep(None):
                    self._forever = True
                    return
                case shell.Sleep(seconds):
                    assert seconds is not None
                    self.host.time.at(self.host.time.now + seconds, lambda: self._go(turn))
                    return
                case shell.Exit(code):
                    self._end(code)
                    return
                case shell.Trap(steps):
                    self._term = steps
                case shell.Program(name, argument):
                    self._steps[:0] = self.host.programs[name](self, argument)
        self._end(0)

    def _say(self, data: bytes) -> None:
        self.printed += len(data)
        room = min(self.spec.log_limit, self.host.log_room) - len(self.log)
        self.log += data[: max(0, room)]
        self.host.tell(self.spec.attempt_id)

    def _end(self, code: int) -> None:
        if not self.lives:
            return
        dropped = self.printed - len(self.log)
        limited = len(self.log) >= self.spec.log_limit
        why = ("write error: File too large" if limited else "write error: No space left on device") if dropped else ""
        self.ending, self.ended = Ending(code, self._cause, dropped, why), self.host.time.now
        self._turn += 1
        self.host.tell(self.spec.attempt_id)

    def terminate(self) -> None:
        """TERM reaches it; KILL follows after its ``stop_duration``."""
        if not self.lives:
            return
        self._cause = self._cause or "stopped"
        if self.spec.stop_duration:
            self.host.time.at(self.host.time.now + self.spec.stop_duration, self.kill)
        if self._term is None:
            self._end(143)
        elif self._term:
            # Then it goes on with what it did, a sleep excepted: that was told to end too.
            self._turn += 1
            self._steps = [*self._term, *([shell.Sleep(None)] if self._forever else []), *self._steps]
            self._go(self._turn)

    def kill(self) -> None:
        if self.lives:
            self._cause = self._cause or "aborted"
            self._end(137)

    def lose(self) -> None:
        """Its supervisor is killed, or its machine goes down."""
        if self.lives:
            self.killed, self.ended = True, self.host.time.now
            self._turn += 1
            self.host.tell(self.spec.attempt_id)


@dataclass
class Host:
    """``latency``: seconds of each call, one way. ``begin_delay``: from a launch to the supervisor's first breath.

    ``lose_launches``: of so many next launches the answer is lost, after they took effect. ``log_room``: bytes of its disk.
    """

    name: str
    time: Time
    remote: bool = True
    reachable: bool = True
    boot: int = 1
    latency: float = 0.01
    begin_delay: float = 0.05
    lose_launches: int = 0
    log_room: int = 1 << 40
    claim: tuple[str, str] | None = None
    """(installation, instance) of who holds it."""
    released: set[tuple[str, str]] = field(default_factory=set)
    """Who gave it back and never claims it again."""
    addresses: tuple[str, ...] = ("10.0.0.9/24",)
    jobs: dict[str, Job] = field(default_factory=dict)
    removed: dict[str, Job] = field(default_factory=dict)
    shows: str = ""
    """The host key of a rented machine; '' before the first contact."""
    next_key: str = ""
    heartbeat_at: float = 0.0
    """When the engine last gave its guard a word."""
    programs: Programs = field(default_factory=dict)
    listeners: dict[str, list[tuple[asyncio.AbstractEventLoop, Callable[[], None]]]] = field(default_factory=dict)
    launches: list[str] = field(default_factory=list)

    def tell(self, attempt_id: str) -> None:
        """Whoever watches a job and can be reached hears that there is news."""
        if not self.reachable:
            return
        for loop, changed in self.listeners.get(attempt_id, []):
            if not loop.is_closed() and not getattr(loop, "dead", False):
                loop.call_soon(changed)

    def launch(self, spec: JobSpec) -> None:
        """The job's folder is there from now on, and its supervisor soon: unless the host goes down before, which a second launch
        makes good. Of two supervisors the second one ends at once.
        """
        self.launches.append(spec.attempt_id)
        job = self.jobs.setdefault(spec.attempt_id, Job(self, spec))
        if job.began is not None or job.over:
            return
        boot = self.boot
        self.time.at(self.time.now + self.begin_delay, lambda: job.begin() if self.boot == boot else None)
        self.time.at(self.time.now + self.begin_delay, lambda: self.tell(spec.attempt_id))

    def end(self, attempt_id: str, *, abort: bool) -> bool:
        job = self.jobs.get(attempt_id)
        if job is None:
            if self.remote:
                # Who makes `started` first has won: what has not begun never will.
                stone = self.jobs[attempt_id] = Job(self, JobSpec(attempt_id, [], {}))
                stone.ending = Ending(137, "aborted") if abort else Ending(143, "stopped")
            return True
        if job.began is None and not job.over:
            if self.remote:
                job.ending = Ending(137, "aborted") if abort else Ending(143, "stopped")
                return True
            return False
        if abort:
            job.kill()
        else:
            job.terminate()
        return True

    def take(self, who: tuple[str, str]) -> tuple[str, str] | None:
        """What claim.sh does in one step. Returns whose the host is now; None for who comes late."""
        if who in self.released:
            self.claim = None if self.claim == who else self.claim
            return None
        self.claim = self.claim or who
        return self.claim

    def give_back(self, who: tuple[str, str]) -> None:
        self.released.add(who)
        self.claim = None if self.claim == who else self.claim

    def reboot(self) -> None:
        self.boot += 1
        for job in self.jobs.values():
            job.lose()

    def everything(self) -> list[Job]:
        return [*self.jobs.values(), *self.removed.values()]


@dataclass
class World:
    """``on_create`` and ``on_attach`` hear the identity of what a vendor is about to make.

    ``changes`` counts what happened at the vendor: equal numbers, equal futures. ``resend``: as ``Traits`` of the vendor.
    ``restarts``: whether it starts machines that are off.
    """

    time: Any
    hosts: dict[str, Host] = field(default_factory=dict)
    vms: list[VM] = field(default_factory=list)
    resources: dict[str, str] = field(default_factory=dict)
    """Identity → kind of what is attached at the vendor."""
    late_things: set[str] = field(default_factory=set)
    """Those that a dead engine's call made after its death."""
    faults: Faults = field(default_factory=Faults)
    resend: str = "look"
    restarts: bool = False
    changes: int = 0
    guarded: list[str] = field(default_factory=list)
    """Machines that their guards powered off."""
    programs: Programs = field(default_factory=dict)
    on_create: Callable[[str], None] = lambda _: None
    on_attach: Callable[[str], None] = lambda _: None
    on_launch: Callable[[str], None] = lambda _: None

    def host(self, name: str, **more: Any) -> Host:
        """The host of that name; made when it is first asked for."""
        if name not in self.hosts:
            self.hosts[name] = Host(name, self.time, programs=self.programs, **more)
        return self.hosts[name]

    def make(self, vm: VM) -> None:
        """A machine is there from now on, and its guard watches from its first moment."""
        self.vms.append(vm)
        vm.number = len(self.vms)
        self.changes += 1
        self.time.at(vm.made + SILENCE, lambda: self._guard(vm))

    def _guard(self, vm: VM) -> None:
        """What guard.sh does on a machine that runs no job: without a word from an engine for ``SILENCE`` it powers off."""
        if vm.gone is not None or vm.off:
            return
        host = self.host(vm.identity)
        quiet_since = max([vm.made, vm.on_since, host.heartbeat_at, *(job.ended or 0.0 for job in host.jobs.values())])
        if any(job.lives for job in host.jobs.values()):
            quiet_since = self.time.now
        if self.time.now - quiet_since >= SILENCE:
            self.guarded.append(vm.identity)
            self.power_off(vm)
        else:
            self.time.at(quiet_since + SILENCE, lambda: self._guard(vm))

    def end(self, vm: VM) -> None:
        """A machine goes, and what runs on it."""
        if vm.gone is None:
            vm.gone = self.time.now
            self._dark(vm)

    def power_off(self, vm: VM) -> None:
        """A machine that is off: still there, still paid for."""
        vm.off = vm.lost = True
        self._dark(vm)

    def power_on(self, vm: VM) -> None:
        """A machine that was off boots, with all that was on its disk; what ran then does not."""
        if not vm.off or vm.gone is not None:
            return
        vm.off = vm.lost = False
        vm.on_since = self.time.now
        self.changes += 1
        host = self.host(vm.identity)
        host.reboot()
        host.reachable = True
        self.time.at(vm.on_since + SILENCE, lambda: self._guard(vm))

    def interrupt(self, vm: VM, *, ending: float = 30.0) -> None:
        """The vendor takes a machine back: it says so for ``ending`` seconds."""
        vm.ending = vm.lost = True
        self._dark(vm)
        self.time.at(self.time.now + ending, lambda: self.end(vm))

    def take_away(self, vm: VM) -> None:
        """Somebody deletes a machine in the vendor's console."""
        vm.lost = True
        self.end(vm)

    def _dark(self, vm: VM) -> None:
        self.changes += 1
        if vm.twin or any(each.identity == vm.identity and each.gone is None and not each.off for each in self.vms):
            return
        host = self.host(vm.identity)
        host.reachable = False
        for job in host.jobs.values():
            job.lose()

    def jobs(self) -> list[Job]:
        return [job for host in self.hosts.values() for job in host.everything()]
