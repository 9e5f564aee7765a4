"""A notebook of ours, executed as a user would: what its cells say, and its pictures."""

from __future__ import annotations

import base64
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def executed(path: Path, timeout: int = 110) -> tuple[str, list[bytes]]:
    """(all text of its outputs, its PNGs). The stored notebook must have no outputs; a cell that fails raises."""
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "the stored notebook has outputs"
    NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "\n".join(str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", "")) for output in outputs)
    return text, [base64.b64decode(output.data["image/png"]) for output in outputs if "image/png" in output.get("data", {})]
