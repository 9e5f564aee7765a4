"""``make demo``: runs the quickstart notebook headless, as a user would read it, and shows what came out."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out"


def outputs(cell: nbformat.NotebookNode) -> str:
    found = []
    for output in cell.get("outputs", []):
        if output.output_type == "stream":
            found.append(output.text.rstrip())
        elif "data" in output and "text/plain" in output.data:
            found.append(output.data["text/plain"])
    return "\n".join(found)


def main() -> int:
    OUT.mkdir(exist_ok=True)
    # A state folder of its own: a demo leaves no run in the user's list.
    with tempfile.TemporaryDirectory(prefix="dj-demo-") as state:
        os.environ["DSTACK_JUPYTER_HOME"] = state
        os.environ["DSTACK_JUPYTER_IDLE_EXIT"] = "5"
        os.environ.setdefault("IPYTHONDIR", f"{state}/ipython")
        notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", as_version=4)
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "notebooks")}})
        total = sum(cell.cell_type == "code" for cell in notebook.cells)
        done = 0

        def progress(cell: nbformat.NotebookNode, cell_index: int) -> None:
            nonlocal done
            if cell.cell_type == "code":
                done += 1
                print(f"[{done}/{total}] {cell.source.splitlines()[0]}", flush=True)

        client.on_cell_start = progress
        try:
            client.execute()
        except CellExecutionError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            stop_engine()
    target = OUT / "quickstart.ipynb"
    nbformat.write(notebook, target)
    for tag, title in (("offers", "offers"), ("run", "the run and the tail of its log")):
        for cell in notebook.cells:
            if tag in cell.metadata.get("tags", []):
                print(f"\n── {title} " + "─" * (60 - len(title)))
                print(outputs(cell))
    print(f"\nthe executed notebook: {target.relative_to(ROOT)} (open it with `make lab`)")
    return 0


def stop_engine() -> None:
    """End the engine that the notebook's kernel started, before its state folder goes."""
    from dstack_jupyter.client import connect
    from dstack_jupyter.models.endpoint import read
    from dstack_jupyter.models.errors import DstackJupyterError
    from dstack_jupyter.models.home import Home

    try:
        connect(start=False).call("POST", "/engine/handover")
    except DstackJupyterError:
        return
    import time

    deadline = time.monotonic() + 10
    while read(Home.default()) is not None and time.monotonic() < deadline:
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
