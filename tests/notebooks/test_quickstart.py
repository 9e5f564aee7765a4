"""The product's front page is executed, cell by cell, as a user would."""

from __future__ import annotations

import shutil
from pathlib import Path

from dstack_jupyter.models.home import Home
from tests.notebooks.executing import executed

ROOT = Path(__file__).resolve().parents[2]


def test_the_quickstart_runs_and_shows_what_it_promises(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns("out", ".ipynb_checkpoints"))
    text, images = executed(folder / "quickstart.ipynb")
    assert "train: done" in text
    assert "epoch 30" in text
    assert "30 epochs, one every" in text
    assert len(images) == 1
    assert len(images[0]) > 20_000
    accuracy = float((folder / "out" / "metrics.csv").read_text().splitlines()[-1].split(",")[-1])
    assert accuracy > 0.9
