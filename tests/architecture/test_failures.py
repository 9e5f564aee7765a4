"""docs/failures.md is complete, and what it names is there and says so: a renamed test leaves no failure uncovered."""

from __future__ import annotations

import re

import pytest

from .citations import NAMED, ROOT, said_by

NUMBERS = [f"F{number:02}" for number in range(1, 67)]
EXCUSES = ("not concerned: ", "not built yet: ")
ROW = re.compile(r"\| (F\d\d) \| (\S+#\d+) \| ([^|]+) \| ([^|]+) \|")


def rows() -> list[tuple[str, str, str]]:
    """(number, source, what shows that we do not have it)"""
    lines = (ROOT / "docs" / "failures.md").read_text().splitlines()
    found = [ROW.fullmatch(line) for line in lines if line.startswith("| F")]
    assert all(found), "a line that is none of the table"
    return [(row[1], row[2], row[4]) for row in found if row]


def test_every_failure_has_its_line() -> None:
    assert [number for number, _, _ in rows()] == NUMBERS


@pytest.mark.parametrize(("number", "source", "shown"), rows(), ids=[number for number, _, _ in rows()])
def test_what_a_line_names_is_there_and_names_the_failure(number: str, source: str, shown: str) -> None:
    if shown.startswith(EXCUSES):
        return
    marks = [(named[0], said_by(named)) for named in NAMED.finditer(shown)]
    assert marks and NAMED.sub("", shown).strip("; ") == "", f"{shown} names something that is neither a test nor a story"
    for name, mark in marks:
        assert mark is not None, f"{name} is not there"
        assert f"{number} {source}" in mark, f"{name} does not say that it shows {number} {source}"
