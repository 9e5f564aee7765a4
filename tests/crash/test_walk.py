"""The crash walker (``python -m tests.crash.walk``) over both databases at once; ``make soak`` walks all visits and all pairs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def walk(database: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.crash.walk", "--database", database, *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str], out: str, err: str) -> dict[str, Any]:
    assert process.returncode == 0, err[-6000:] or out
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.timeout(1800)
def test_no_crash_at_any_point_breaks_a_promise(capsys: pytest.CaptureFixture[str]) -> None:
    """F55 terraform-provider-aws#18051."""
    if not available():
        assert not os.environ.get("CI"), "CI must have PostgreSQL 15: .ci/run installs it"
        pytest.skip("needs PostgreSQL 15 (Debian: apt-get install postgresql)")
    running = {
        database: walk(database, "--pairs", str(count), "--singles", SINGLES[database], "--rented", str(RENTED[database]))
        for database, count in PAIRS.items()
    }
    ended = {database: process.communicate() for database, process in running.items()}
    for database, process in running.items():
        found = told(process, *ended[database])
        with capsys.disabled():
            print(f"\ncrash walker: {found}", flush=True)
        assert found["points crashed at"] == found["points"] >= LEAST[database]
        assert found["pairs"] >= PAIRS[database]
