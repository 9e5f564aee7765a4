"""The crash walker (``python -m tests.crash.walk``) over both databases; ``make soak`` walks all visits and all pairs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.postgres import available

ROOT = Path(__file__).resolve().parents[2]
SINGLES = {"sqlite": "effects", "postgresql": "names"}
"""Each point of the source on both; each effect of each story where that costs less."""
RENTED = {"sqlite": 3, "postgresql": 0}
"""Effects of each story of rented machines, at places of the dice: all of them take half an hour (``make soak``)."""
PAIRS = {"sqlite": 200, "postgresql": 50}
LEAST = {"sqlite": 240, "postgresql": 260}
"""Points (names) that the stories pass at least: fewer means that some are not found any more."""


def seed_of_the_pairs() -> int:
    """In CI the day's, so that each day's pairs are others; ``DJ_SEED`` repeats a day's. Elsewhere always the same ones."""
    given = os.environ.get("DJ_SEED") or (f"{datetime.now(UTC):%Y%m%d}" if os.environ.get("CI") else "2026")
    return int(given)


@pytest.mark.first
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("database", sorted(PAIRS))
def test_no_crash_at_any_point_breaks_a_promise(database: str, record_property: Callable[[str, object], None]) -> None:
    """F55 terraform-provider-aws#18051."""
    if not available():
        assert not os.environ.get("CI"), "CI must have PostgreSQL 15: .ci/run installs it"
        pytest.skip("needs PostgreSQL 15 (Debian: apt-get install postgresql)")
    seed = seed_of_the_pairs()
    command = [sys.executable, "-W", "ignore", "-m", "tests.crash.walk", "--database", database]
    command += ["--pairs", str(PAIRS[database]), "--pairs-seed", str(seed)]
    command += ["--singles", SINGLES[database], "--rented", str(RENTED[database])]
    record_property("told", f"crash walker on {database}: DJ_SEED={seed} draws these pairs again")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"pairs by DJ_SEED={seed}\n{done.stderr[-6000:] or done.stdout}"
    found = json.loads(done.stdout)
    record_property("told", f"crash walker: {found}")
    assert found["points crashed at"] == found["points"] >= LEAST[database]
    assert found["pairs"] >= PAIRS[database]
