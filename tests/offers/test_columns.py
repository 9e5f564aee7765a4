"""A column of the offers table is declared once, in ``models/offers.py``; everything else is made from that."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dstack_jupyter.models.offers import COLUMNS

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dstack_jupyter"
OF_OTHER_TABLES = {
    "client/frames.py": "runs and fleets as DataFrames",
    "engine/store/hosts.py": "columns of the store's table of instances",
    "magics/commands.py": "`%dstack fleets`",
    "magics/watching.py": "`%dstack ps`",
}
"""Tables of other things than offers, some of whose columns bear the same names."""


def names_in_a_row(path: Path) -> list[int]:
    """The lines of tuples, lists and sets that hold three names of columns or more."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Tuple | ast.List | ast.Set)
        and sum(isinstance(each, ast.Constant) and each.value in COLUMNS for each in node.elts) >= 3
    ]


def test_no_other_module_lists_the_columns() -> None:
    found = {str(path.relative_to(PACKAGE)): names_in_a_row(path) for path in PACKAGE.rglob("*.py")}
    assert {name for name, lines in found.items() if lines} <= OF_OTHER_TABLES.keys()


PROGRAM = """
import io
from dstack_jupyter.backends.live import checked
from dstack_jupyter.display.offers import offers_text
from dstack_jupyter.models.offers import tabulated
from dstack_jupyter.models.resources import Resources
from dstack_jupyter.offers import snapshot
from dstack_jupyter.offers.frame import to_frame
from dstack_jupyter.offers.groups import group
from dstack_jupyter.offers.requirements import Requirements
from dstack_jupyter.offers.rows import Rows
from dstack_jupyter.offers.wire import to_wire

ALL = Requirements(Resources(), defaults_filter=False)
row = {"backend": "sim", "instance_type": "m", "cpus": 1.0, "memory_gb": 1.0, "price": 1.0, "gpu_count": 1, "gpu_name": "T4"}
table = checked("sim", tabulated([{**row, "gpu_link": "nvlink", "watts": 300.0}, row]), 0.0)
rows = table.query(ALL).rows()
assert rows.lists()["gpu_link"] == ["nvlink", ""], rows.lists()
frame = to_frame(rows)
assert list(frame["gpu_link"]) == ["nvlink", ""] and frame["watts"].dtype == float and frame["watts"].isna().sum() == 1
assert [each["watts"] for each in to_wire(rows, ALL, 2)["offers"]] == [300.0, None]
assert group(rows, ("gpu",))["gpu_link"] == ["nvlink", ""]
text = offers_text(rows.lists(), 2)
assert "WATTS" in text[0] and "300" in text[1] and "?" in text[2], text
assert [view.watts for view in rows.views()] == [300.0, None]
file = io.BytesIO()
snapshot.write(rows, file)
assert sorted(snapshot.read(file.getvalue()).rows.lists()["gpu_link"]) == ["", "nvlink"]
shipped = snapshot.shipped("gcp").rows
assert shipped.text["gpu_link"].words == [""], "files of before there was the column are read"
assert set(shipped.text["origin"].words) == {"catalog"}
print("all of them have it")
"""


@pytest.mark.parametrize("declared", [False, True])
def test_a_column_is_one_declaration(tmp_path: Path, declared: bool) -> None:
    """Two more columns, a text and a number, in a copy of the package whose one changed file is the model."""
    shutil.copytree(PACKAGE, tmp_path / "dstack_jupyter", ignore=shutil.ignore_patterns("__pycache__"))
    model = tmp_path / "dstack_jupyter" / "models" / "offers.py"
    before = '    cpu_arch: Annotated[str, Column(stored="machine")] = ""\n'
    text = '    gpu_link: Annotated[str, Column(stored="machine", group="gpu")] = ""\n'
    number = '    watts: Annotated[float | None, Column(stored="machine", header="WATTS", json=True)] = None\n'
    assert before in model.read_text()
    if declared:
        model.write_text(model.read_text().replace(before, before + text + number))
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ("all of them have it" in done.stdout) is declared, done.stderr
