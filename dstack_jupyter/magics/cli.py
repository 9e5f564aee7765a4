"""``jupyter dstack``: the same commands from a shell. Exit codes: 0 done, 1 failed, 2 usage, 130 detached."""

from __future__ import annotations

import getpass
import os
import sys
from typing import TYPE_CHECKING

from ..models.errors import ConfigurationError, ConfirmationNeeded, DstackJupyterError
from . import parser

if TYPE_CHECKING:
    from ..display.logview import View
    from ..models.runs import RunView
    from .frontend import Result

PROG = "jupyter dstack"


def _words(text: str) -> str:
    """``text`` for a shell: commands are named as they are called here."""
    return text.replace("`%%dstack ", "`jupyter dstack ").replace("`%dstack ", "`jupyter dstack ")


class TerminalFace:
    is_notebook = False
    holds_objects = False

    def __init__(self) -> None:
        self._below: list[str] = []

    def say(self, text: str) -> None:
        print(_words(text), file=sys.stderr, flush=True)

    def below(self, lines: list[str], html: str) -> None:
        self._below += lines

    def end(self) -> None:
        """Say what belongs below the result, which has been printed."""
        sys.stdout.flush()
        for line in self._below:
            self.say(line)

    def ask(self, question: str) -> bool:
        if not sys.stdin.isatty():
            raise ConfirmationNeeded(f"nobody can be asked here: {question}", hint="add -y to go on without being asked")
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    def enter(self, question: str, *, secret: bool = False) -> str:
        if not sys.stdin.isatty():
            raise ConfirmationNeeded(f"nobody can be asked here: {question}", hint="use a terminal or a notebook")
        return getpass.getpass(question) if secret else input(question)

    def view(self, run: RunView) -> View:
        from ..display.logview import TerminalView

        return TerminalView(run)


def main(arguments: list[str] | None = None) -> int:
    """The console script's entry."""
    try:
        args = parser.parse(sys.argv[1:] if arguments is None else arguments, PROG)
    except parser.HelpShown as shown:
        print(shown.text)
        return 0
    except ConfigurationError as error:
        print(_words("\n".join(error._lines())), file=sys.stderr)
        return 2
    code = 0
    try:
        from .commands import run_command

        body = sys.stdin.read() if args.command == "check" and args.file == "-" else None
        frontend = TerminalFace()
        result = run_command(args, frontend, body)
        if not result.shown:
            _show(result, as_json=getattr(args, "json", False))
        frontend.end()
        code = result.code
    except DstackJupyterError as error:
        print(_words("\n".join(error._lines())), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read us (`head`) has enough; the interpreter's own flush at exit must not fail over it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if args.command == "offers":
        from ..backends.live import hand_over

        hand_over()
    return code


def _show(result: Result, *, as_json: bool) -> None:
    from ..api import to_json
    from .frontend import Report

    value = result.value
    if as_json:
        print(to_json(value.data if isinstance(value, Report) else value))
    elif isinstance(value, bytes):
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
    elif hasattr(value, "to_dict"):
        from ..display.terminal import print_table

        narrow = result.columns if sys.stdout.isatty() else ()
        print_table(narrow or list(value.columns), value.to_dict("records"), sys.stdout)
    elif isinstance(value, list):
        print(_words("\n".join(str(item) for item in value)))
    elif isinstance(value, Report):
        if text := _words(str(value)):
            print(text)
    elif value is not None:
        print(value)


if __name__ == "__main__":
    sys.exit(main())
