"""The product's front page is executed, cell by cell, as a user would."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from dstack_jupyter.models.home import Home

ROOT = Path(__file__).resolve().parents[2]


def test_the_quickstart_runs_and_shows_what_it_promises(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns("out", ".ipynb_checkpoints"))
    notebook = nbformat.read(folder / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "the stored notebook has outputs"
    NotebookClient(notebook, timeout=110, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "\n".join(str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", "")) for output in outputs)
    assert "train: done" in text
    assert "epoch 30" in text
    assert "30 epochs, one every" in text
    images = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) == 1
    assert len(base64.b64decode(images[0])) > 20_000
    accuracy = float((folder / "out" / "metrics.csv").read_text().splitlines()[-1].split(",")[-1])
    assert accuracy > 0.9
