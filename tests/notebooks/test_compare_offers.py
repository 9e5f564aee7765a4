"""The tour of offers is executed as a user without any account would."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from dstack_jupyter.models.home import Home

ROOT = Path(__file__).resolve().parents[2]


def test_offers_are_compared_without_an_account(home: Home, tmp_path: Path) -> None:
    shutil.copy(ROOT / "notebooks" / "compare-offers.ipynb", tmp_path)
    notebook = nbformat.read(tmp_path / "compare-offers.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "the stored notebook has outputs"
    NotebookClient(notebook, timeout=110, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "\n".join(str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", "")) for output in outputs)
    assert "offers with GPUs of 3 backends" in text
    assert "aws: list prices of 20" in text
    assert "no offers of lambda, " in text
    images = [base64.b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})]
    assert len(images) == 3
    assert all(len(image) > 15_000 for image in images)
    assert not (home.root / "engine.lock").exists(), "offers need no engine"
