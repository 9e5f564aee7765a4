"""What pages of docs/ name, looked up without importing it: tests, stories of the crash walker, planted defects."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r'`(tests/[\w/]+\.py)::(\w+)`|story "([^"]+)"')
"""A test as ``file::function`` (groups 1 and 2), or a story (group 3)."""


@cache
def stories() -> dict[str, str]:
    """Of each story of the crash walker the source that it names, read and not imported."""
    found = {}
    for path in (ROOT / "tests" / "crash").glob("scenarios*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                marks = [
                    each.value.value for each in node.keywords if each.arg == "source" and isinstance(each.value, ast.Constant)
                ]
                found[str(node.args[0].value)] = str(marks[0]) if marks else ""
    return found


def docstring(path: Path, name: str) -> str | None:
    """Of a test, '' if it has none; None if there is no such test."""
    if not path.exists():
        return None
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return ast.get_docstring(node) or ""
    return None


def said_by(named: re.Match[str]) -> str | None:
    """What a test or story that a page names says of itself; None if it is not there."""
    return stories().get(named[3]) if named[3] else docstring(ROOT / named[1], named[2])


@cache
def mutants() -> set[str]:
    return {path.stem for path in (ROOT / "tests" / "mutants").glob("*.patch")}
