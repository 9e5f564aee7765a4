"""The tour of offers is executed as a user without any account would."""

from __future__ import annotations

import shutil
from pathlib import Path

from dstack_jupyter.models.home import Home
from tests.notebooks.executing import executed

ROOT = Path(__file__).resolve().parents[2]


def test_offers_are_compared_without_an_account(home: Home, tmp_path: Path) -> None:
    shutil.copy(ROOT / "notebooks" / "compare-offers.ipynb", tmp_path)
    text, images = executed(tmp_path / "compare-offers.ipynb")
    assert "offers with GPUs of 3 backends" in text
    assert "aws: list prices of 20" in text
    assert "no offers of lambda, " in text
    assert len(images) == 3
    assert all(len(image) > 15_000 for image in images)
    assert not (home.root / "engine.lock").exists(), "offers need no engine"
