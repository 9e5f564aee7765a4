"""Planted defects: each patch under tests/mutants/ breaks a promise on purpose, and a test must notice.

    python tools/mutants.py [PATCH ...] [--check] [--machines]

A patch begins with lines for people and for this program:
    # what is broken, in one sentence
    # tests: what pytest is given          (one of these three; without any: DEFAULT below)
    # story: a story of the crash walker
    # machines: what pytest is given, which needs root and real machines: with --machines or by name only, one at a time
Each is applied to a throw-away copy of the tree, where what it names must fail; on the copy as it is the same must pass. A patch
that does not apply is an error. ``--check`` only looks whether all of them still do. Exit code 1 if anything escaped.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATCHES = ROOT / "tests" / "mutants"
DEFAULT = "tests/engine tests/simulated tests/machines/test_job_folder.py tests/crash"
KEYS = ("tests:", "story:", "machines:")
LONGEST = 600
"""Seconds that the tests of one patch may take; past that it has escaped."""


@dataclass(frozen=True)
class Mutant:
    path: Path
    about: str
    tests: str
    story: str
    machines: bool = False

    @classmethod
    def read(cls, path: Path) -> Mutant:
        head = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
        keys = {line.partition(":")[0]: line.partition(":")[2].strip() for line in head if line.startswith(KEYS)}
        about = next((line for line in head if not line.startswith(KEYS)), path.stem)
        tests = keys.get("machines") or keys.get("tests", "" if "story" in keys else DEFAULT)
        return cls(path, about, tests, keys.get("story", ""), "machines" in keys)

    @property
    def command(self) -> list[str]:
        if self.story:
            return [sys.executable, "-W", "ignore", "-m", "tests.crash.walk", "--only", self.story, "--fail-fast"]
        options = ["-x", "-q", "-p", "no:randomly", "-rfE", "--no-header"]
        options += ["-m", "machines"] if self.machines else ["-m", "not machines", "--timeout=120"]
        return [sys.executable, "-m", "pytest", *options, *self.tests.split()]


def copy(to: Path) -> None:
    """The tree as it is now, what git ignores left out."""
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)


def applies(path: Path, tree: Path, *, check: bool = False) -> str:
    """Apply a patch to a tree; '' or why it cannot be."""
    command = ["git", "apply", *(["--check"] if check else []), str(path.resolve())]
    # Outside any repository, so that git looks at files and not at an index.
    done = subprocess.run(
        command, cwd=tree, capture_output=True, text=True, env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    )
    return done.stderr.strip() if done.returncode else ""


def run(command: list[str], tree: Path) -> tuple[bool, str]:
    """(whether everything passed, the first thing that did not)."""
    env = {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'server_extension'}", "PYTHONDONTWRITEBYTECODE": "1"}
    # Into a file: what a broken engine leaves running could hold a pipe open for ever.
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(command, cwd=tree, stdout=output, stderr=output, env=env, start_new_session=True)
        try:
            code = process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            return True, f"nothing failed within {LONGEST} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        said = output.read()
    # An error of a test's set-up or end counts (what it left behind, say), one of collecting does not.
    failed = re.search(r"^(?:FAILED|ERROR) (\S+::\S+)", said, re.MULTILINE) or re.search(
        r"^(.+, crash at .*)$", said, re.MULTILINE
    )
    if code and failed is None:
        return False, f"no test failed, the run itself did: {said.strip()[-400:]}"
    return code == 0, failed[1][:160] if failed else ""


def attempt(mutant: Mutant) -> tuple[bool, str]:
    """(whether it was caught, by what)."""
    with tempfile.TemporaryDirectory(prefix="dj-mutant-") as folder:
        tree = Path(folder).resolve()
        copy(tree)
        if wrong := applies(mutant.path, tree):
            return False, f"does not apply: {wrong}"
        passed, told = run(mutant.command, tree)
        return not passed and not told.startswith("no test failed"), told or "nothing"


def sound(commands: list[list[str]], at_a_time: int) -> list[str]:
    """Which of these commands fail on the tree as it is: they would catch anything."""
    with tempfile.TemporaryDirectory(prefix="dj-mutant-") as folder:
        tree = Path(folder).resolve()
        copy(tree)
        with ThreadPoolExecutor(at_a_time) as threads:
            found = threads.map(lambda command: (command, run(command, tree)), commands)
            return [
                f"{' '.join(command[3:])} fails without any defect: {told}" for command, (passed, told) in found if not passed
            ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("patches", nargs="*", type=Path, help="patch files; none: all of tests/mutants")
    parser.add_argument("--check", action="store_true", help="only look whether they apply")
    parser.add_argument("--machines", action="store_true", help="those that need real machines too")
    given = parser.parse_args()
    mutants = [Mutant.read(path) for path in given.patches or sorted(PATCHES.glob("*.patch"))]
    if given.check:
        wrong = [f"{each.path.name}: {why}" for each in mutants if (why := applies(each.path, ROOT, check=True))]
        print("\n".join(wrong) or f"{len(mutants)} patches apply")
        return 1 if wrong or not mutants else 0
    began = time.monotonic()
    left_out = [each for each in mutants if each.machines and not given.machines and not given.patches]
    mutants = [each for each in mutants if each not in left_out]
    groups = [([each for each in mutants if each.machines is machines], 1 if machines else 2) for machines in (False, True)]
    broken: list[str] = []
    for group, at_a_time in groups:
        broken += sound(list({tuple(each.command): each.command for each in group}.values()), at_a_time)
    for line in broken:
        print(line)
    if broken:
        return 1
    caught = 0
    for group, at_a_time in groups:
        with ThreadPoolExecutor(at_a_time) as threads:
            for mutant, (found, told) in zip(group, threads.map(attempt, group), strict=True):
                caught += found
                print(f"{'caught ' if found else 'ESCAPED'} {mutant.path.stem}: {mutant.about}\n        by {told}", flush=True)
    if left_out:
        print(f"{len(left_out)} more need real machines: --machines")
    print(f"{caught}/{len(mutants)} caught in {time.monotonic() - began:.0f} s")
    return 0 if mutants and caught == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
