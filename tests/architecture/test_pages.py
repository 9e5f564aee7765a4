"""ARCHITECTURE.md says what the code does, in sentences that can be read once."""

from __future__ import annotations

import re

import pytest

from .citations import ROOT
from .test_architecture import ARROWS, ENGINE_ARROWS

PAGE = "ARCHITECTURE.md"
LONGEST, AVERAGE = 40, 25
"""Words of a sentence: at most, and on average."""
END = re.compile(r"(?<=[.?!:])\s+(?=[A-Z`*(])")


def arrows(heading: str) -> dict[str, set[str]]:
    """The first table below a heading: the last name in its first column → the names in its last column."""
    text = (ROOT / PAGE).read_text().split(f"\n{heading}\n", 1)[1]
    table = next(part for part in text.strip().split("\n\n") if part.startswith("|"))
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    names = [re.findall(r"`([^`]+)`", row[0])[0].rstrip("/").removesuffix(".py").rpartition("/")[2] for row in rows]
    return {name: set(re.findall(r"`(\w+)`", row[-1])) for name, row in zip(names, rows, strict=True)}


def test_the_table_of_folders_names_the_arrows() -> None:
    assert arrows("## The parts") == {name: to for name, to in ARROWS.items() if not name.startswith("_")}


def test_the_table_of_the_engine_s_rooms_names_their_arrows() -> None:
    assert arrows("### The engine's rooms") == ENGINE_ARROWS


def sentences(text: str) -> list[str]:
    """Without code blocks, tables and headings; an item of a list begins a sentence."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "#"))]
    paragraphs = re.split(r"\n\s*\n|\n(?=\* |\d+\. )", "\n".join(lines))
    return [each for part in paragraphs for each in END.split(" ".join(re.sub(r"^(\*|\d+\.) ", "", part).split())) if each]


@pytest.mark.parametrize("page", [PAGE, "CONTRIBUTING.md", "docs/decisions.md", "docs/promises.md"])
def test_sentences_are_short(page: str) -> None:
    found = {each: len(each.split()) for each in sentences((ROOT / page).read_text())}
    assert not {each: words for each, words in found.items() if words > LONGEST}
    assert sum(found.values()) / len(found) <= AVERAGE
    assert len(found) > 20


def test_sentences_are_counted() -> None:
    text = "# Head\n\nOne `a.b` is here. Two\nis: Three.\n\n```\nno. No.\n```\n* four\n* Five (e.g. six). |\n| a | b |\n1. Seven!"
    assert sentences(text) == ["One `a.b` is here.", "Two is:", "Three.", "four", "Five (e.g. six). |", "Seven!"]
