"""Lint, types and the tests that a change touches: `make test-quick`, for the inner loop.

    python tools/quick.py [-n WORKERS] [--list] [FILE ...]

Changed is what differs from where the branch left origin/main (or main), what is not committed, and what git does not know yet;
FILEs stand in for that. A test file is touched if it changed, or if what it imports did; the nearest come first, as many as fit
into ``ROOM``. What is left out is named: `make test` runs everything.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "dstack_jupyter": "dstack_jupyter",
    "dstack_jupyter_server": "server_extension/dstack_jupyter_server",
    "tests": "tests",
}
ALWAYS = ("tests/architecture/test_architecture.py", "tests/architecture/test_failures.py")
SLOW = {
    "tests/crash/test_walk.py": 450, "tests/contract/test_runs.py": 145, "tests/crash/test_kill.py": 90,
    "tests/crash/test_two_engines.py": 70, "tests/server/test_server.py": 60, "tests/magics/test_kernel.py": 60,
    "tests/contract/test_reached.py": 50, "tests/client/test_client.py": 50, "tests/engine/test_cloud_fleets.py": 45,
    "tests/engine/test_engine.py": 45, "tests/security/test_doctor.py": 40, "tests/clouds/test_sweeps.py": 40,
    "tests/machines/test_job_folder.py": 35, "tests/magics/test_configuring.py": 32, "tests/magics/test_money.py": 31,
    "tests/clouds/test_cleanup.py": 21, "tests/backends/digitalocean/test_account.py": 20, "tests/security/test_canaries.py": 19,
    "tests/security/test_routes.py": 16, "tests/security/test_vault.py": 16, "tests/crash/test_found_rented.py": 14,
    "tests/machines/test_userdata.py": 13, "tests/clouds/test_seam.py": 13, "tests/notebooks/test_quickstart.py": 12,
}  # fmt: skip
"""Seconds, about, of the files of tests that take long; any other takes five at most."""
OTHER = 5
ROOM = 75
"""Seconds of tests, one after the other, that fit beside lint and types."""


def changed() -> set[str]:
    """Paths below the root that a change touches."""

    def git(*words: str) -> list[str]:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.split("\n") if done.returncode == 0 else []

    base = next((found[0] for name in ("origin/main", "main") if (found := git("merge-base", "HEAD", name))), "HEAD")
    return {name for name in (*git("diff", "--name-only", base), *git("ls-files", "-o", "--exclude-standard")) if name}


def modules() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: Iterable[str]) -> set[str]:
    """The modules of ours that a module imports, wherever in it; a name in a string counts, for vendors are loaded by it."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 100:
            module = node.value.partition(":")[0]
            found |= {module, f"{package}.{module}"} if "." in module else set()
    return found & set(known)


def touched(paths: Iterable[str]) -> dict[str, int]:
    """Test files by how many imports they are away from what changed: 0 for one that changed itself."""
    known = modules()
    here = {str(path.relative_to(ROOT)): name for name, path in known.items()}
    importers: dict[str, set[str]] = {name: set() for name in known}
    for name, path in known.items():
        for each in imports(name, path, known):
            importers[each].add(name)
    for name in [each for each in known if each.rpartition(".")[2] == "conftest"]:
        # pytest imports it for all tests below its folder.
        importers[name] |= {each for each in known if each.startswith(name.removesuffix("conftest"))}
    reached: dict[str, int] = {}
    front, away = {here[path] for path in paths if path in here}, 0
    while front:
        reached |= dict.fromkeys(front, away)
        front, away = {each for name in front for each in importers[name]} - set(reached), away + 1
    tests = {str(known[name].relative_to(ROOT)): far for name, far in reached.items()}
    return {path: far for path, far in tests.items() if Path(path).name.startswith("test_")}


def choose(away: dict[str, int]) -> tuple[list[str], list[str]]:
    """(what is run, what has no room): the nearest first, and of those that are as near the quick ones first."""
    run, left, took = list(ALWAYS), [], 0
    for path in sorted(away, key=lambda path: (away[path], SLOW.get(path, OTHER), path)):
        if path in ALWAYS:
            continue
        took += SLOW.get(path, OTHER)
        (run if took <= ROOM else left).append(path)
    return run, left


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="what changed; none: git says it")
    parser.add_argument("-n", default="4", metavar="WORKERS", help="processes that the tests run in")
    parser.add_argument("--list", action="store_true", help="only say which tests")
    given = parser.parse_args()
    run, left = choose(touched(given.files or changed()))
    if given.list:
        print("\n".join(run))
        return 0
    bin = Path(sys.executable).parent
    beside = [[bin / "ruff", "check", "."], [bin / "ruff", "format", "--check", "."], [bin / "mypy"]]
    lint = [subprocess.Popen(command, cwd=ROOT) for command in beside]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not machines", "-n", given.n, "--dist", "worksteal", *run]
    tests = subprocess.run(command, cwd=ROOT).returncode
    wrong = [" ".join(map(str, process.args[:1])) for process in lint if process.wait()]  # type: ignore[index]
    if left:
        print(f"left to `make test`: {len(left)} files that the change touches too, {', '.join(left[:4])} …")
    if wrong:
        print("wrong: " + ", ".join(Path(each).name for each in wrong))
    return tests or bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
