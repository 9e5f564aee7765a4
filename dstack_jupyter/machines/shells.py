"""The command line of a job: its commands as one script, for the shell that it asked for. Pure functions.

The right answer is that of ``<shell> -i -c`` of all commands, in order, as dstack has it (D13). Tests ask jobs what each line is
for (tests/machines/test_shells.py).
"""

from __future__ import annotations

import posixpath

from ..models.errors import ConfigurationError
from .base import JobSpec

POSIX = frozenset({"sh", "dash", "ash", "bash", "zsh", "ksh", "mksh"})
"""Shells that read the script that we write."""
INTERACTIVE = frozenset({"bash", "zsh"})
"""Shells whose start files count (``conda activate`` is a function of ~/.bashrc). ``sh -i`` has none."""

CHECK = "case $? in 0) ;; *) exit ;; esac"
"""Between two commands. Each stands alone: in ``a && b`` or ``{ a; } || exit`` a shell ignores ``set -e`` and ERR traps."""

STOPPABLE = "trap 'exit 143' TERM"
"""A stop reaches the shell and what it runs. With a trap the shell waits for that first, and begins nothing new."""

OUTER = """\
exec 2>&1
dj=0
while IFS= read -r line; do
    dj=$((dj + 1))
    case $dj$line in [12]"${3##*/}: "*) ;; *) printf '%s\\n' "$line" >&2 ;; esac
done <"$2"
: >"$2"
unset dj line
(
    trap 'exit 143' TERM
    [ ! -e "${2%rc}stopping" ] || exit 143
    eval "shift 3
$1"
)"""
"""What an interactive shell runs: the script is its ``$1``.

Without a terminal such a shell begins with two complaints; the supervisor has kept what was said before this line in the file
``$2``. At its start files the shell ignores a stop, which is then seen in the file beside it. In a subshell ``exit`` does not
print "exit", and ``eval`` reads line by line, so that aliases and functions count.
"""


def quote(value: str) -> str:
    """``value`` as one word of POSIX sh, byte for byte. Raises ConfigurationError for NUL, which no environment can hold."""
    if "\0" in value:
        raise ConfigurationError("a NUL character cannot be handed to a process")
    return "'" + value.replace("'", "'\\''") + "'"


def command_line(spec: JobSpec, prepare: str = "") -> tuple[list[str], bool]:
    """(the words of the job's process, whether its shell is interactive: the supervisor adds ``$2`` and ``$3`` of ``OUTER``)."""
    if spec.argv:
        return (["/bin/sh", "-c", f'{prepare}exec "$@"', "sh", *spec.argv] if prepare else list(spec.argv)), False
    name = posixpath.basename(spec.shell)
    if name not in POSIX:
        # Of other shells only this much is known. Our own preparation is sh, and what it exports is inherited.
        words = [spec.shell, "-c", " && ".join(spec.commands)]
        return (["/bin/sh", "-c", f'{prepare}exec "$@"', "sh", *words] if prepare else words), False
    script = f"{STOPPABLE}\n{prepare}{command_script(spec.commands)}"
    if name in INTERACTIVE:
        return [spec.shell, "-i", "-c", OUTER, "commands", script], True
    return [spec.shell, "-c", script, "commands"], False


def command_script(commands: list[str]) -> str:
    """All commands as one script: the next one runs only if the one before ended with 0."""
    return f"\n{CHECK}\n".join(map(_whole, commands))


def _whole(command: str) -> str:
    """A command without a backslash at its end, which would draw our next line into its last."""
    backslashes = len(command) - len(command.rstrip("\\"))
    return command[:-1] if backslashes % 2 else command
