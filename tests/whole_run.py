"""What concerns a run of the tests as a whole: the long ones first, what a vendor's tests may cost, what tests have to tell.

The tests run side by side in processes (pytest-xdist, ``WORKERS`` of the Makefile). Each process has a PostgreSQL server, hosts,
images and ports of its own; the hooks below run in each of them, and those that judge or print in the one that leads.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Generator

import pytest

from tests.clouds.fixtures import OFFERS

SECONDS = {"make test": 20.0, "make test-machines": 90.0}
"""Seconds of a processor that the tests of one vendor may take, so that the suites keep their room for each vendor to come."""
LOADED = 1.5
"""With other tests beside it, work takes up to half as much longer: two threads share a core. More than that is too much."""
OWN = re.compile(r"tests/backends/(?P<folder>\w+)/|tests/clouds/.*\[(?P<words>.*)\]$")
"""Whose tests these are: a folder of its own, or its name among a test's parameters."""
SPENT: pytest.StashKey[float] = pytest.StashKey()
"""What this process had worked when a test's present part began."""


def vendor_of(nodeid: str) -> str:
    found = OWN.match(nodeid)
    if found is None or found["folder"]:
        return found["folder"] if found else ""
    return next((word for word in found["words"].split("-") if word in OFFERS), "")


class Budget:
    """Adds up what the tests of each vendor took, and says who took too much."""

    def __init__(self) -> None:
        self._took: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def add(self, vendor: str, suite: str, nodeid: str, seconds: float) -> None:
        self._took[vendor, suite][nodeid] += seconds

    def lines(self) -> list[str]:
        """For each vendor and suite: what it took of what it has."""
        return [
            f"{vendor}: {sum(tests.values()):.1f} s of the {SECONDS[suite]:g} s a vendor has of `{suite}`"
            for (vendor, suite), tests in sorted(self._took.items())
        ]

    def over(self) -> list[str]:
        """A line for each vendor that took more than it has, with its slowest tests."""
        found = []
        for (vendor, suite), tests in sorted(self._took.items()):
            if sum(tests.values()) > LOADED * SECONDS[suite]:
                slowest = sorted(tests.items(), key=lambda each: -each[1])[:3]
                named = ", ".join(f"{nodeid} {seconds:.1f} s" for nodeid, seconds in slowest)
                found.append(
                    f"{vendor}'s tests take {sum(tests.values()):.1f} s, a vendor has {SECONDS[suite]:g} s of `{suite}`: {named}"
                )
        return found


def worked() -> float:
    """Seconds of a processor that this process and its ended children had by now.

    A vendor is charged for the work of its tests: on a busy machine their waits are longer, and the neighbours' fault.
    """
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


SETUP = 0.3
"""Seconds of a test's own set-up at most."""
LOOP = 100_000
QUIET = 0.0030
"""Seconds of a processor that ``LOOP`` rounds take on the machine that the budgets were set on, with nothing beside."""


def slowness() -> float:
    """How much slower than that one this machine is now: its neighbours slow down the processor's own seconds, too."""
    began = time.process_time()
    for _ in range(LOOP):
        pass
    return max(1.0, (time.process_time() - began) / QUIET)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Leader(), "dstack-jupyter-leader")


@pytest.hookimpl(trylast=True)  # after the shuffle
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, each at the head of another process's share: the others help with the rest of it (`worksteal`)."""
    longest = [item for item in items if item.get_closest_marker("first")]
    if longest:
        rest = [item for item in items if item not in longest]
        part = max(1, len(items) // workers(items[0].config))
        for number, item in enumerate(longest):
            rest.insert(number * part, item)
        items[:] = rest


def workers(config: pytest.Config) -> int:
    """How many processes run these tests."""
    found = getattr(config, "workerinput", {}).get("workercount", 1)
    return int(found)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.stash[SPENT] = worked()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    before, item.stash[SPENT] = item.stash[SPENT], worked()
    if vendor := vendor_of(item.nodeid):
        suite = "make_test-machines" if item.get_closest_marker("machines") else "make_test"
        took = (item.stash[SPENT] - before) / slowness()
        # The first test of a process sets up what all its others use: databases, the vendor's published file.
        took = min(took, SETUP) if report.when == "setup" else took
        report.user_properties.append(("vendor", f"{vendor} {suite} {took:.6f}"))
        item.stash[SPENT] = worked()
    return report


class Leader:
    """Hears every report, in the process that leads."""

    def __init__(self) -> None:
        self._budget = Budget()
        self._told: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, value in report.user_properties:
            if name == "vendor":
                vendor, suite, seconds = str(value).split()
                self._budget.add(vendor, suite.replace("_", " "), report.nodeid, float(seconds))
            elif name == "told" and report.when == "call":
                self._told.append(str(value))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._budget.over() and not session.exitstatus:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for line in [*self._told, *self._budget.lines()]:
            terminalreporter.write_line(line)
        for line in self._budget.over():
            terminalreporter.write_line(f"FAILED {line}", red=True)
