"""Shorter times for an engine under test, by the names that the code has: a name that it lost would shorten nothing."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def shorten(module: ModuleType, **values: Any) -> None:
    """Set constants of a module. Raises AttributeError for a name that the module does not have."""
    for name, value in values.items():
        getattr(module, name)
        setattr(module, name, value)
