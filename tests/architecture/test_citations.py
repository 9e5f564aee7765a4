"""Numbers that code and docs cite are explained in docs/, and what docs/promises.md names is there: a promise without a test
would be a wish."""

from __future__ import annotations

import re
import subprocess

import pytest

from .citations import NAMED, ROOT, mutants, said_by

PAGES = {"D": "docs/decisions.md", "R": "docs/promises.md"}
CITED = re.compile(r"(?<![\w.#:/-])([DRF]\d{1,2}[a-d]?)(?:–([DRF]\d{1,2}))?(?![\w-])")
"""A number, or two with a dash in between: all from the one to the other."""
DEMANDED = re.compile(r"\(T\d{1,2}\b")
"""Numbers of tests to demand belong to nobody here. Without the bracket they are GPUs."""
NOT_OURS = {"D64"}
"""A type of machine at Azure."""
LOOKED_AT = ("dstack_jupyter", "server_extension", "tests", "tools", "benchmarks", "docs", "*.md", "pyproject.toml")
TEXT = (".py", ".sh", ".md", ".patch", ".toml", ".yaml", ".mjs")


def defined() -> set[str]:
    headings = re.compile(r"^#+ ([DR]\d{1,2}[a-z]?) ", re.MULTILINE)
    found = {number for page in PAGES.values() for number in headings.findall((ROOT / page).read_text())}
    return found | set(re.findall(r"^\| (F\d\d) \|", (ROOT / "docs/failures.md").read_text(), re.MULTILINE))


def files() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard", *LOOKED_AT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0") if name.endswith(TEXT) and (ROOT / name).exists()]


def cited(text: str) -> set[str]:
    found = set()
    for first, last in CITED.findall(text):
        numbers = range(int(re.sub(r"\D", "", first)), int(last[1:]) + 1) if last else ()
        found |= {first} if not last else {f"{first[0]}{number:0{len(first) - 1}}" for number in numbers}
    return found


def promises() -> dict[str, str]:
    """The text of each promise by its number."""
    parts = re.split(r"^## (R\d+) ", (ROOT / PAGES["R"]).read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_number_that_is_cited_is_explained() -> None:
    known = defined()
    unknown = {
        f"{name}: {number}"
        for name in files()
        for number in cited((ROOT / name).read_text(errors="replace"))
        if number not in known | NOT_OURS
    }
    assert not unknown
    demanded = [name for name in files() if DEMANDED.search((ROOT / name).read_text(errors="replace"))]
    assert not demanded, "say what the test shows: its number is not in this repository"


def test_citations_are_found() -> None:
    assert cited("(R3, R12) D3a R1–R4, D11. F05 T4 R17x /D5 dj-R9") == {"R3", "R12", "D3a", "R1", "R2", "R4", "D11", "F05"}


def test_every_promise_and_decision_is_there() -> None:
    assert list(promises()) == [f"R{number}" for number in range(1, 17)]
    assert defined() >= {f"D{number}" for number in range(1, 18)} | {"D3a"}


@pytest.mark.parametrize("number", promises())
def test_what_shows_a_promise_is_there(number: str) -> None:
    text = promises()[number]
    shown = list(NAMED.finditer(text))
    assert any(named[1] for named in shown), "no test shows it"
    assert not [named[0] for named in shown if said_by(named) is None]
    defects = [name for line in re.findall(r"\*Planted defects:\*([^.]+)\.", text) for name in re.findall(r"`([^`]+)`", line)]
    assert ("Planted defects" in text) == bool(defects)
    assert not set(defects) - mutants()


@pytest.mark.parametrize("page", [*PAGES.values(), "docs/glossary.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_modules_that_a_page_names_are_there(page: str) -> None:
    """A path from the root, from the package or from ``engine/``: a file that has moved is a stale sentence."""
    named = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*\w\.(?:py|sh|md|yml|yaml|json|patch))[`:]", (ROOT / page).read_text()))
    bases = (ROOT, ROOT / "dstack_jupyter", ROOT / "dstack_jupyter" / "engine", ROOT / "dstack_jupyter" / "backends")
    outside = ("../", "keys/", "cache/")
    missing = {each for each in named if not each.startswith(outside) and not any((base / each).exists() for base in bases)}
    assert not {each for each in missing if "NAME" not in each and "VENDOR" not in each}


@pytest.mark.parametrize("name", sorted(mutants()))
def test_a_planted_defect_cites_a_promise_that_names_it(name: str) -> None:
    """Both ways: who reads the patch finds the promise, who reads the promise finds the patch."""
    head = (ROOT / "tests" / "mutants" / f"{name}.patch").read_text().splitlines()[0]
    for number in cited(head):
        if number.startswith("R"):
            assert f"`{name}`" in promises()[number], f"{number} does not name {name}"
