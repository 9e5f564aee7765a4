"""What `make test-quick` chooses, and what a run of the tests charges a vendor."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.whole_run import LOADED, SECONDS, Budget, vendor_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def quick() -> ModuleType:
    spec = importlib.util.spec_from_file_location("quick", ROOT / "tools" / "quick.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_a_change_touches_the_tests_that_import_it_and_what_imports_it(quick: ModuleType) -> None:
    away = quick.touched(["dstack_jupyter/backends/rest.py"])
    assert away["tests/backends/test_rest.py"] == 1
    assert away["tests/backends/digitalocean/test_account.py"] > 1, "by what the vendor imports"
    assert quick.touched(["tests/display/test_ansi.py"]) == {"tests/display/test_ansi.py": 0}
    assert quick.touched(["README.md"]) == {}
    assert quick.touched(["tests/fleets/conftest.py"])["tests/fleets/test_runs.py"] == 1, "pytest imports it for them"


def test_the_nearest_tests_come_first_and_what_has_no_room_is_named(quick: ModuleType) -> None:
    away = {"tests/crash/test_walk.py": 1, "tests/backends/test_rest.py": 1, "tests/client/test_pack.py": 2}
    run, left = quick.choose(away)
    assert run == [*quick.ALWAYS, "tests/backends/test_rest.py"]
    assert left == ["tests/crash/test_walk.py", "tests/client/test_pack.py"]
    everything, left = quick.choose(quick.touched(["dstack_jupyter/models/errors.py"]))
    assert sum(quick.SLOW.get(path, quick.OTHER) for path in everything) <= quick.ROOM + 2 * quick.OTHER
    assert left


def test_every_file_that_it_knows_to_be_slow_is_there(quick: ModuleType) -> None:
    assert [path for path in (*quick.SLOW, *quick.ALWAYS) if not (ROOT / path).exists()] == []


def test_it_says_what_it_would_run() -> None:
    command = [sys.executable, "tools/quick.py", "--list", "dstack_jupyter/backends/rest.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "tests/backends/test_rest.py" in done.stdout.split("\n")


# What a vendor may cost.


@pytest.mark.parametrize(
    ("nodeid", "vendor"),
    [
        ("tests/backends/digitalocean/test_account.py::test_one[a-b]", "digitalocean"),
        ("tests/clouds/test_seam.py::test_a_machine_from_order_to_gone[amddevcloud]", "amddevcloud"),
        ("tests/clouds/test_seam.py::test_a_create[digitalocean-made, answer lost]", "digitalocean"),
        ("tests/clouds/test_sweeps.py::test_one[sqlite]", ""),
        ("tests/backends/test_rest.py::test_one", ""),
    ],
)
def test_a_test_is_charged_to_the_vendor_whose_own_it_is(nodeid: str, vendor: str) -> None:
    assert vendor_of(nodeid) == vendor


def test_a_vendor_has_20_seconds_of_the_one_suite_and_90_of_the_other() -> None:
    assert SECONDS == {"make test": 20, "make test-machines": 90}
    budget = Budget()
    for number in range(19):
        budget.add("first", "make test", f"test_{number}", LOADED)
    budget.add("first", "make test-machines", "test_boots", 89.0 * LOADED)
    budget.add("second", "make test", "test_slow", 25.0)
    budget.add("second", "make test", "test_quick", 5.5)
    (line,) = budget.over()
    assert LOADED == 1.5
    assert line.startswith("second's tests take 30.5 s, a vendor has 20 s of `make test`: test_slow 25.0 s, test_quick 5.5 s")
    assert len(budget.lines()) == 3


@pytest.mark.parametrize("side_by_side", [[], ["-n", "2"]])
def test_a_run_in_which_a_vendor_takes_too_much_fails_and_names_it(tmp_path: Path, side_by_side: list[str]) -> None:
    folder = tmp_path / "tests" / "backends" / "newcloud"
    folder.mkdir(parents=True)
    (folder / "test_slow.py").write_text("def test_sleeps():\n    pass\n")
    names = "pytest_collection_modifyitems, pytest_configure, pytest_runtest_makereport, pytest_runtest_protocol"
    (tmp_path / "conftest.py").write_text(f"from tests import whole_run\nfrom tests.whole_run import {names}\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *side_by_side, str(folder)]

    def run(seconds: float) -> subprocess.CompletedProcess[str]:
        conftest = (tmp_path / "conftest.py").read_text().partition("whole_run.SECONDS")[0]
        (tmp_path / "conftest.py").write_text(f"{conftest}whole_run.SECONDS['make test'] = {seconds}\n")
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PATH": "", "PYTHONPATH": str(ROOT)})

    fine, over = run(60.0), run(0.0)
    assert fine.returncode == 0, fine.stdout + fine.stderr
    assert "newcloud: 0.0 s of the 60 s" in fine.stdout
    assert over.returncode == 1, over.stdout + over.stderr
    assert "FAILED newcloud's tests take" in over.stdout
    assert "tests/backends/newcloud/test_slow.py::test_sleeps" in over.stdout
    assert over.stdout.strip().split("\n")[-1].startswith("1 passed")
