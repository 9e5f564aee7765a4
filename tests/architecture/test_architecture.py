"""The import arrows of ARCHITECTURE.md, the lean start, and habits that a reader would trip over."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from dstack_jupyter.backends import registry

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dstack_jupyter"

ARROWS = {
    "_version": set(),
    "models": {"_version"},
    "processes": set(),
    "transport": {"models"},
    "offers": {"models"},
    "archives": {"models"},
    "machines": {"archives", "models", "processes"},
    "display": {"models"},
    "backends": {"models", "offers", "machines", "processes"},
    "engine": {"_version", "models", "offers", "backends", "machines", "transport", "processes"},
    "client": {"archives", "models", "transport", "processes", "display"},
    "doctor": {"_version", "backends", "client", "engine", "models"},
    "api": {"client", "doctor", "models", "offers", "backends"},
    "magics": {"api", "client", "display", "models", "backends"},
    "__init__": {"_version", "magics"},
    "__main__": {"magics"},
}
ENGINE_ARROWS = {
    "__main__": {"process"},
    "names": set(),
    "keys": set(),
    "steps": set(),
    "store": {"keys", "steps"},
    "runtime": {"store"},
    "provisioning": {"keys", "names", "runtime", "store"},
    "jobs": {"keys", "provisioning", "runtime", "store"},
    "reconcilers": {"jobs", "names", "provisioning", "runtime", "steps", "store"},
    "service": {"jobs", "keys", "names", "provisioning", "reconcilers", "runtime", "steps", "store"},
    "api": set(),
    "engine": {"jobs", "keys", "provisioning", "reconcilers", "runtime", "service", "store"},
    "process": {"api", "engine", "service", "store"},
}
"""The rooms of the engine. Each imports only rooms that stand above it or that it names."""
FORBIDDEN_IN_ENGINE = {"IPython", "ipykernel", "ipywidgets", "jupyter_server", "jupyter_client", "jupyter_core", "pandas"}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, *, typing: bool = True) -> set[str]:
    """Absolute dotted names of what a module imports, inside functions too. ``typing``: what only type checkers need as well."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = parts[:-1]
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if not typing else ():
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def modules() -> list[Path]:
    return [path for path in PACKAGE.rglob("*.py") if "migrations" not in path.parts]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("dstack_jupyter.")}
    rooms = {name for name in ours if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()}
    assert rooms - {room} <= ARROWS[room]
    if room in ("models", "offers", "machines", "backends", "engine") and path.name != "frame.py":
        assert not {name.split(".")[0] for name in imports(path)} & FORBIDDEN_IN_ENGINE


@pytest.mark.parametrize(
    "path", [path for path in modules() if "engine" in path.parts], ids=lambda path: str(path.relative_to(ROOT))
)
def test_arrows_of_the_engine(path: Path) -> None:
    base = PACKAGE / "engine"
    room = path.relative_to(base).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    parts = [name.split(".") for name in imports(path) if name.startswith("dstack_jupyter.engine.")]
    rooms = {part[2] for part in parts if (base / part[2]).is_dir() or (base / f"{part[2]}.py").exists()}
    assert rooms - {room} <= ENGINE_ARROWS[room]


def test_the_rooms_of_the_engine_have_no_circle() -> None:
    TopologicalSorter(ENGINE_ARROWS).prepare()


VENDORS_MAY = {"base", "config", "digitalocean", "rest", "vendor"}
"""What a vendor's folder imports of `backends`. DigitalOcean's is the API of AMD's cloud too."""


def vendors() -> list[str]:
    return sorted({entry.config.split(".")[2] for entry in registry.TABLE.values() if entry.config} | {"ssh"})


@pytest.mark.parametrize("vendor", vendors())
def test_a_vendor_knows_no_other(vendor: str) -> None:
    for path in (PACKAGE / "backends" / vendor).rglob("*.py"):
        rooms = {name.split(".")[2] for name in imports(path) if name.startswith("dstack_jupyter.backends.")}
        assert rooms - {vendor} <= VENDORS_MAY - ({"digitalocean"} if vendor != "amddevcloud" else set())


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_registry_knows_vendors(path: Path) -> None:
    parts = path.relative_to(PACKAGE).parts
    if parts[0] == "backends" and len(parts) > 2 and parts[1] in vendors():
        return
    assert not [
        name for name in imports(path) if name.startswith(tuple(f"dstack_jupyter.backends.{each}." for each in vendors()))
    ]


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Inside functions too: an import that waits until it is needed still shows where an idea belongs."""
    known = {dotted(path): path for path in modules()}
    arrows = {
        name: {each for each in imports(path, typing=False) if each in known and each != name} for name, path in known.items()
    }
    # A package that gathers names of its modules is no circle with them.
    for name in list(arrows):
        arrows[name] -= {package for package in known if known[package].name == "__init__.py"}
    TopologicalSorter(arrows).prepare()


def test_loading_the_extension_loads_nothing_heavy() -> None:
    code = (
        "import sys, json\nfrom IPython.core.interactiveshell import InteractiveShell\n"
        "shell = InteractiveShell.instance()\nbefore = set(sys.modules)\n"
        "shell.run_line_magic('load_ext', 'dstack_jupyter')\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(json.loads(out))
    heavy = {"pandas", "numpy", "sqlalchemy", "alembic", "asyncssh", "boto3", "botocore", "azure", "google", "kubernetes"}
    assert not loaded & (heavy | {"tornado", "pydantic", "ipywidgets"}), loaded


def test_an_engine_starts_without_what_only_offers_need() -> None:
    code = "import sys, dstack_jupyter.engine.__main__, dstack_jupyter.engine.process.host; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_one_idea(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_host_keys_are_never_ignored_and_no_machine_is_named() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.split("\0"):
        path = ROOT / name
        if not name or not path.exists() or path.suffix in (".png", ".lock") or path == Path(__file__).resolve():
            continue
        text = path.read_text(errors="replace")
        # /root is root's home on the tests' hosts too.
        home = () if name.startswith(("tests/hosts/", "tests/fleets/", "tests/machines/")) else ("/root/",)
        for wrong in (
            "known_hosts=None",
            "StrictHostKeyChecking no",
            "StrictHostKeyChecking=no",
            "StrictHostKeyChecking=accept",
            "/work/main",
            *home,
        ):
            assert wrong not in text, f"{name} holds {wrong}"
