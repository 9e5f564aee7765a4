"""Tab completion of ``%dstack``: commands, flags, backends, runs seen before, files. Never asks anybody: it must be instant."""

from __future__ import annotations

import argparse
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from . import parser

LINE = re.compile(r"%%?dstack\s+(?P<rest>.*)$")
TAKES_RUN = ("logs", "attach", "stop", "pull")
MOST_RUNS = 50
OF_OFFERS = {
    "-r": "region",
    "--region": "region",
    "--zone": "zone",
    "--instance-type": "instance_type",
    "--gpu": "",
    "--group-by": "",
}
"""Flags whose values are words of the offers, and the column they are in."""


class Completer:
    """One for each shell. ``learn`` is called with every result; ``match`` is an IPython context matcher."""

    def __init__(self) -> None:
        self._runs: list[str] = []
        self._flags: dict[str, list[str]] = {}

    def learn(self, value: Any) -> None:
        """Remember the names of runs in a result."""
        name = getattr(value, "name", None)
        names = [name] if isinstance(name, str) else []
        columns = getattr(value, "columns", ())
        if "name" in columns and "exit_code" in columns:
            names += list(value["name"])
        for run in reversed(names):
            if run in self._runs:
                self._runs.remove(run)
            self._runs.insert(0, run)
        del self._runs[MOST_RUNS:]

    def candidates(self, line: str) -> tuple[str, list[str]]:
        """(the word being completed, what it can become) for a line up to the cursor; nothing for other lines."""
        match = LINE.search(line)
        if match is None:
            return "", []
        words = match["rest"].split(" ")
        word, before = words[-1], [part for part in words[:-1] if part]
        if not before:
            return word, [command for command in parser.COMMANDS if command.startswith(word)]
        command = parser.ALIASES.get(before[0], before[0])
        if before[-1] in ("-b", "--backend"):
            from ..backends import registry

            names = list(registry.entries)
        elif before[-1] in OF_OFFERS and command in ("offers", "apply"):
            names = _of_offers(before[-1], [name for flag, name in pairwise(before) if flag in ("-b", "--backend")])
        elif before[-1] in ("-f", "--file") and command == "apply":
            names = _files(word)
        elif word.startswith("-"):
            names = self._of_command(command)
        elif command == "check":
            names = _files(word)
        elif command in ("backends", "configure", "schema"):
            names = _of_backends(command, before)
        elif command in TAKES_RUN and len([part for part in before if not part.startswith("-")]) == 1:
            names = self._runs
        else:
            names = []
        return word, [name for name in names if name.startswith(word)]

    def _of_command(self, command: str) -> list[str]:
        if command not in parser.COMMANDS:
            return []
        if command not in self._flags:
            actions: list[argparse.Action] = parser.subparser(parser.build(), command)._actions
            self._flags[command] = sorted(flag for action in actions for flag in action.option_strings)
        return self._flags[command]

    def match(self, context: Any) -> Any:
        """IPython calls this on the main thread for every completion."""
        from IPython.core.completer import SimpleCompletion

        line = context.line_with_cursor[: context.cursor_position]
        word, candidates = self.candidates(line)
        return {
            "completions": [SimpleCompletion(text=name, type="dstack") for name in candidates],
            "matched_fragment": word,
            "suppress": bool(candidates),
        }


def _of_offers(flag: str, backends: list[str]) -> list[str]:
    """Names of GPUs, keys of groups; regions, zones and instance types of list prices and of what backends have answered."""
    if flag == "--gpu":
        from ..models.gpus import KNOWN

        return sorted(KNOWN)
    if flag == "--group-by":
        return ["gpu", "gpu,backend", "gpu,backend,region", "gpu,count", "gpu,backend,region,count"]
    from ..backends.collect import words

    return words(OF_OFFERS[flag], backends)


def _of_backends(command: str, before: list[str]) -> list[str]:
    """Verbs, then names of backends; kinds of schemas."""
    from ..backends import registry

    if command == "schema":
        from ..models.yaml_source import TYPES

        return [*TYPES, "profiles", "config", *registry.entries]
    if command == "backends" and len(before) == 1:
        return ["list", "check", "policy", "help"]
    return list(registry.entries)


def _files(word: str) -> list[str]:
    folder = Path(word).expanduser().parent if word else Path()
    prefix = word[: len(word) - len(Path(word).name)] if word else ""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return []
    return [f"{prefix}{e.name}/" if e.is_dir() else f"{prefix}{e.name}" for e in entries if not e.name.startswith(".")]
