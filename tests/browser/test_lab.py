"""The quickstart and its accidents in a real JupyterLab, driven in Chromium."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from tools.lab_server import Lab, lab

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.machines, pytest.mark.timeout(400)]


@pytest.fixture(scope="module", autouse=True)
def _browser() -> None:
    missing = [name for name in ("chromium", "node") if shutil.which(name) is None]
    if missing or not (ROOT / "tools" / "node_modules" / "playwright-core").exists():
        assert not os.environ.get("CI"), f"CI must have a browser: {missing}"
        pytest.skip("needs chromium, node and tools/node_modules: `make test-machines` installs them")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Lab]:
    home, root = tmp_path / "home", tmp_path / "notebooks"
    home.mkdir()
    shutil.copytree(ROOT / "notebooks", root, ignore=shutil.ignore_patterns("out", ".ipynb_checkpoints"))
    with lab(home, root) as found:
        yield found


def notebook(server: Lab, tmp_path: Path, *cells: str) -> str:
    found = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    found.metadata = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}
    nbformat.write(found, tmp_path / "notebooks" / "t.ipynb")
    return "t.ipynb"


def outputs(text: str) -> list[str]:
    found: list[str] = json.loads(text.splitlines()[-1])
    return found


def test_the_quickstart_in_a_browser(server: Lab, tmp_path: Path) -> None:
    steps = ("run", "wait:unseen digits read correctly", "wait:epochs, one every", "idle")
    code, text = server.drive("quickstart.ipynb", tmp_path / "shot.png", *steps)
    assert code == 0, text
    assert "dialogs: 0" in text


BODY = """type: task
commands:
  - seq 300; until [ -e {gate} ]; do sleep 0.05; done; seq 301 600; echo the end
"""
WAITING = "%%dstack apply -n long\n" + BODY


def test_an_interrupt_detaches_and_the_cell_s_output_goes_on(server: Lab, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    name = notebook(server, tmp_path, "%load_ext dstack_jupyter", WAITING.format(gate=gate))
    steps = ("run", "wait:300", "interrupt", "wait:detached", "idle", f"signal:{gate}", "wait:the end")
    code, text = server.drive(name, tmp_path / "shot.png", *steps)
    assert code == 0, text


@pytest.mark.parametrize("accident", ["reload", "restart"])
def test_an_accident_in_the_middle_of_a_run_loses_nothing(accident: str, server: Lab, tmp_path: Path) -> None:
    """JupyterLab itself drops what a running cell prints after a reload of the page: the whole log comes by attaching."""
    gate = tmp_path / "gate"
    shell = "import os\nshell = get_ipython()\nshell.run_line_magic('load_ext', 'dstack_jupyter')"
    body = BODY.format(gate=gate)
    launch = f"if not os.path.exists('{gate}'):\n    shell.run_cell_magic('dstack', 'apply -n long', {body!r})"
    attach = (
        f"if os.path.exists('{gate}'):\n    shell.run_line_magic('dstack', 'attach long')\n"
        "    print('whole', len(shell.run_line_magic('dstack', 'logs long').lines))"
    )
    name = notebook(server, tmp_path, shell, launch, attach)
    steps = ("run", "wait:300", accident, f"signal:{gate}", "run", "wait:whole 601")
    code, text = server.drive(name, tmp_path / "shot.png", *steps)
    assert code == 0, text


def test_a_script_in_a_log_line_is_text(server: Lab, tmp_path: Path) -> None:
    evil = "%%dstack apply\ntype: task\ncommands:\n  - echo '<img src=x onerror=alert(1)><script>alert(2)</script> shown'"
    name = notebook(server, tmp_path, "%load_ext dstack_jupyter", evil)
    code, text = server.drive(name, tmp_path / "shot.png", "run", "wait:shown", "idle")
    assert code == 0, text
    assert "dialogs: 0" in text
    assert any("<script>alert(2)</script> shown" in output for output in outputs(text))
