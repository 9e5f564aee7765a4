"""What a user installs: both packages, the extension's configuration, migrations and scripts; no tests."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_holds_what_it_should(tmp_path: Path) -> None:
    hatchling = subprocess.run([sys.executable, "-c", "import hatchling"], capture_output=True)
    if hatchling.returncode != 0:
        pytest.fail("hatchling belongs to the dev extra")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    for wanted in (
        "dstack_jupyter/py.typed",
        "dstack_jupyter/magics/magic.py",
        "dstack_jupyter/machines/job.sh",
        "dstack_jupyter/offers/prices/aws.npz",
        "dstack_jupyter/offers/prices/NOTICE",
        "dstack_jupyter/engine/store/migrations/versions/v0001_initial.py",
        "dstack_jupyter_server/py.typed",
        "dstack_jupyter_server/app.py",
        "dstack_jupyter_server/events/resource-v1.yaml",
        "dstack_jupyter-0.1.0.data/data/etc/jupyter/jupyter_server_config.d/dstack_jupyter_server.json",
    ):
        assert wanted in names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "notebooks/", "server_extension/"))]
