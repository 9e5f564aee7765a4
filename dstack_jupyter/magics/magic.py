"""``%dstack`` and ``%%dstack``: thin faces of ``commands``. Importing this loads neither pandas nor pydantic."""

from __future__ import annotations

import getpass
import shlex
from typing import TYPE_CHECKING, Any

from IPython.core.completer import context_matcher
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand, output_can_be_silenced

from ..models.errors import ConfigurationError, ConfirmationNeeded
from . import parser
from .completer import Completer

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ..display.logview import View
    from ..models.runs import RunView


class ShellFace:
    """The IPython shell that a command is used from: a kernel's or a terminal's."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.is_notebook = hasattr(shell, "kernel")
        self.holds_objects = True
        self._shell = shell

    def say(self, text: str) -> None:
        print(text, flush=True)

    def below(self, lines: list[str], html: str) -> None:
        """The result is shown by whoever gets it, at the cell's end: these lines follow then."""
        if not lines:
            return
        events = self._shell.events

        def show(*_: object) -> None:
            from IPython.display import display

            events.unregister("post_run_cell", show)
            if self.is_notebook:
                display({"text/plain": "\n".join(lines), "text/html": html}, raw=True)  # type: ignore[no-untyped-call]
            else:
                self.say("\n".join(lines))

        events.register("post_run_cell", show)

    def ask(self, question: str) -> bool:
        try:
            return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
        except KeyboardInterrupt:
            return False
        except (EOFError, NotImplementedError) as error:  # StdinNotImplementedError is one
            raise ConfirmationNeeded(
                f"nobody can be asked here: {question}",
                hint="add -y to go on without being asked; nothing was done",
            ) from error

    def enter(self, question: str, *, secret: bool = False) -> str:
        try:
            return getpass.getpass(question) if secret else input(question)
        except (EOFError, NotImplementedError, KeyboardInterrupt) as error:
            raise ConfirmationNeeded(f"not entered: {question}", hint="nothing was saved") from error

    def view(self, run: RunView) -> View:
        from ..display.logview import NotebookView, TerminalView

        return NotebookView(run) if self.is_notebook else TerminalView(run)


@magics_class
class DstackMagics(Magics):
    """Holds the magic and its completer."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.frontend = ShellFace(shell)
        self.completer = Completer()
        # A plain function: the decorator marks it as one that wants the whole context, which a bound method cannot carry.
        self.matcher = context_matcher(identifier="dstack")(lambda context: self.completer.match(context))  # noqa: PLW0108

    @line_cell_magic
    @no_var_expand
    @output_can_be_silenced
    def dstack(self, line: str, cell: str | None = None) -> Any:
        """Launch and watch runs: offers, apply, ps, status, logs, attach, stop, pull, backends, check, configure, events, doctor.

        `%dstack` alone lists the commands, `%dstack COMMAND -h` explains one. Line magics return objects:
        `df = %dstack offers`; `%%dstack apply` takes YAML as the cell's body, `-o VAR` stores its run.
        """
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise ConfigurationError(f"the line cannot be split into words: {error}", hint="close the quotes") from None
        if cell is not None and (not words or words[0].startswith("-")):
            words.insert(0, "apply")
        try:
            args = parser.parse(words, "dstack")
        except parser.HelpShown as shown:
            print(shown.text)
            return None
        except parser.SecretTyped as error:
            from .forgetting import forget_input

            assert self.shell is not None
            kept = not forget_input(self.shell, "configure", "%dstack configure  # what was typed here is not kept")
            where = "the cell" if self.frontend.is_notebook else "the screen"
            also = f"; take it out of {where}" + (", and out of IPython's history.sqlite" if kept else "")
            raise ConfigurationError(error.message, hint=f"{error.hint}{also}") from None
        if cell is not None and args.command not in ("apply", "check"):
            raise ConfigurationError(f"%%dstack {args.command} takes no body", hint=f"use `%dstack {args.command}`")
        from .commands import run_command

        result = run_command(args, self.frontend, cell)
        self.completer.learn(result.value)
        if getattr(args, "json", False):
            from ..api import to_json
            from .frontend import Report

            print(to_json(result.value.data if isinstance(result.value, Report) else result.value))
            return None
        name = getattr(args, "into", None)
        if name:
            if not name.isidentifier():
                raise ConfigurationError(f"-o {name}: this is no name of a variable")
            assert self.shell is not None
            self.shell.push({name: result.value})  # type: ignore[no-untyped-call]
            return None
        # A cell that has shown its run needs no echo of it; a line magic's value is what it is for.
        return None if result.shown and cell is not None else result.value


def register(shell: InteractiveShell) -> None:
    """Add the magic and its completion to a shell. Called once by ``load_ipython_extension``."""
    magics = DstackMagics(shell)
    shell.register_magics(magics)
    if shell.Completer is not None:
        shell.Completer.custom_matchers.append(magics.matcher)


def unregister(shell: InteractiveShell) -> None:
    """Take both back."""
    magics = shell.magics_manager.registry.pop("DstackMagics", None)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("dstack", None)
    if magics is not None and shell.Completer is not None and magics.matcher in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(magics.matcher)
