"""The points at which an engine can die, taken from its source: each ``await``, ``async for`` and ``async with``.

``install`` makes an import of the engine yield modules that announce each of these points just before it. It must come before
the engine is imported, so the walker has a process of its own.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import CodeType
from typing import Any

from tests.simulated.loop import current

PACKAGE = Path(__file__).resolve().parents[2] / "dstack_jupyter"
ENGINE = "dstack_jupyter.engine"


async def reached(name: str) -> None:
    loop = current()
    if loop is not None:
        await loop.point(name)


class Iterated:
    """An async iterator whose every step is a point."""

    def __init__(self, name: str, inner: Any) -> None:
        self._name, self._inner = name, inner.__aiter__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        await reached(self._name)
        return await self._inner.__anext__()

    async def aclose(self) -> None:
        await self._inner.aclose()


class Entered:
    """An async context manager whose entry is a point."""

    def __init__(self, name: str, inner: Any) -> None:
        self._name, self._inner = name, inner

    async def __aenter__(self) -> Any:
        await reached(self._name)
        return await self._inner.__aenter__()

    async def __aexit__(self, *error: Any) -> Any:
        return await self._inner.__aexit__(*error)


class Marker(ast.NodeTransformer):
    """Puts the points into a module's tree; ``found`` are their names: ``module:function:line``, a letter where two share it."""

    def __init__(self, module: str) -> None:
        self.module = module.removeprefix(f"{ENGINE}.")
        self.found: list[str] = []
        self._where: list[str] = []

    def _name(self, node: Any) -> ast.Constant:
        base = name = f"{self.module}:{'.'.join(self._where)}:{node.lineno}"
        for letter in "bcdefgh":
            if name not in self.found:
                break
            name = base + letter
        self.found.append(name)
        return ast.Constant(name)

    def _inside(self, node: Any) -> Any:
        self._where.append(node.name)
        self.generic_visit(node)
        self._where.pop()
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _inside  # noqa: N815 - names of ast

    def _call(self, function: str, *args: ast.expr) -> ast.expr:
        return ast.Call(ast.Name(function, ast.Load()), list(args), [])

    def visit_Await(self, node: ast.Await) -> Any:
        name = self._name(node)
        self.generic_visit(node)
        pair = ast.Tuple([ast.Await(self._call("__dj_reached__", name)), node], ast.Load())
        return ast.copy_location(ast.Subscript(pair, ast.Constant(1), ast.Load()), node)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> Any:
        name = self._name(node)
        self.generic_visit(node)
        node.iter = ast.copy_location(self._call("__dj_iterated__", name, node.iter), node.iter)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> Any:
        if node.is_async:
            name = self._name(node.iter)
            self.generic_visit(node)
            node.iter = ast.copy_location(self._call("__dj_iterated__", name, node.iter), node.iter)
            return node
        return self.generic_visit(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> Any:
        for item in node.items:
            name = self._name(item.context_expr)
            item.context_expr = ast.copy_location(self._call("__dj_entered__", name, item.context_expr), item.context_expr)
        self.generic_visit(node)
        return node


def marked(module: str, source: str) -> tuple[ast.Module, list[str]]:
    """(the module's tree with its points, their names)."""
    marker = Marker(module)
    tree: ast.Module = marker.visit(ast.parse(source))
    first = 0
    for number, node in enumerate(tree.body):
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            first = number + 1
    names = (("reached", "__dj_reached__"), ("Iterated", "__dj_iterated__"), ("Entered", "__dj_entered__"))
    tree.body.insert(first, ast.ImportFrom(__name__, [ast.alias(name, alias) for name, alias in names], 0))
    return ast.fix_missing_locations(tree), marker.found


def in_source() -> dict[str, str]:
    """Every point of the engine's source, and the function that it stands in (``module:function``)."""
    found = {}
    for path in sorted((PACKAGE / "engine").rglob("*.py")):
        if "migrations" in path.parts:
            continue
        module = ".".join(("dstack_jupyter", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for name in marked(module, path.read_text())[1]:
            found[name] = name.rpartition(":")[0]
    return found


class Loader(importlib.machinery.SourceFileLoader):
    """Compiles the marked tree; never a cached one."""

    def get_code(self, fullname: str) -> CodeType:
        tree, _ = marked(fullname, self.get_data(self.path).decode())
        return compile(tree, self.path, "exec", dont_inherit=True)


class Finder:
    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: Any = None) -> Any:
        if not fullname.startswith(f"{ENGINE}."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """From now on the engine's modules announce their points."""
    assert not any(name.startswith(f"{ENGINE}.") for name in sys.modules), "the engine was imported before"
    sys.meta_path.insert(0, Finder)  # type: ignore[arg-type]
