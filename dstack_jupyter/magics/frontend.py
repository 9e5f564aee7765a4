"""What a command has before it (a notebook, a terminal, a shell) and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..display import logview
    from ..models.runs import RunView


class Frontend(Protocol):
    """Where a command is used: a notebook, a terminal IPython, or a shell."""

    is_notebook: bool
    holds_objects: bool
    """Whether results are objects that a program goes on with (a cell, IPython), or only read (a shell)."""

    def say(self, text: str) -> None:
        """A line for the user, on the main thread."""

    def below(self, lines: list[str], html: str) -> None:
        """Lines for the user below the command's result, whatever shows that."""

    def ask(self, question: str) -> bool:
        """A yes or no. Raises ConfirmationNeeded where nobody can be asked."""

    def enter(self, question: str, *, secret: bool = False) -> str:
        """A line from the user; a secret is not shown and not kept. Raises ConfirmationNeeded where nobody can be asked."""

    def view(self, run: RunView) -> logview.View:
        """A fresh view of a run."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command gives back. ``shown``: the user has seen it, so it is not echoed. ``code``: the exit code of a shell.

    ``columns`` are those of a frame that a terminal has room for, the most telling first; empty: all.
    """

    value: Any = None
    shown: bool = False
    code: int = 0
    columns: tuple[str, ...] = ()


class Report:
    """Something that prints as lines, in a notebook as HTML; ``data`` is the same as plain data, and what ``--json`` prints."""

    def __init__(self, lines: list[str], data: Any, html: str = "") -> None:
        self.lines = lines
        self.data = data
        self._html = html

    def __repr__(self) -> str:
        return "\n".join(self.lines)

    def _repr_html_(self) -> str | None:
        return self._html or None
