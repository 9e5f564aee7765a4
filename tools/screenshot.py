"""``make screenshot``: the quickstart in a real JupyterLab, run and photographed into docs/quickstart.png."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from lab_server import ROOT, lab


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="dj-shot-") as folder:
        home, root = Path(folder) / "home", Path(folder) / "notebooks"
        home.mkdir()
        shutil.copytree(ROOT / "notebooks", root, ignore=shutil.ignore_patterns("out", ".ipynb_checkpoints"))
        with lab(home, root) as server:
            steps = ("run", "wait:unseen digits read correctly", "wait:epochs, one every", "idle", "shot:unseen digits read")
            code, text = server.drive("quickstart.ipynb", ROOT / "docs" / "quickstart.png", *steps)
    print("\n".join(line for line in text.splitlines() if not line.startswith("[")))
    return code


if __name__ == "__main__":
    sys.exit(main())
