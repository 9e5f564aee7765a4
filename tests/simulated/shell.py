"""The few forms of sh that jobs of the simulated machine may use, read into steps. The same texts run on real machines.

``printf``, ``echo``, ``sleep``, ``exit``, ``true``, ``head -c N /dev/zero``, waiting loops and traps of TERM; one form a
command, or several with ``;`` between. Anything else is a command that is not found, which is an ending with 127.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Say:
    data: bytes


@dataclass(frozen=True, slots=True)
class Sleep:
    """Seconds; None for ever."""

    seconds: float | None


@dataclass(frozen=True, slots=True)
class Exit:
    code: int


@dataclass(frozen=True, slots=True)
class Trap:
    """What TERM does: these steps, or nothing at all."""

    steps: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A program that the test gave the machine, by name: ``./name argument``."""

    name: str
    argument: str


Step = Say | Sleep | Exit | Trap | Program
LOOP = re.compile(r"(while :|until \[ -e \S+ \]); do sleep [\d.]+; done")
FILL = re.compile(r"head -c (\d+) /dev/zero \| tr '\\0' (\w)")
TRAP = re.compile(r"trap '([^']*)' TERM")


def pieces(command: str) -> list[str]:
    """A command at its semicolons, those of quotes and loops left alone."""
    found, rest = [], command.strip()
    while rest:
        whole = LOOP.match(rest)
        end = whole.end() if whole else _end(rest)
        found.append(rest[:end].strip())
        rest = rest[end:].lstrip("; \n")
    return found


def _end(text: str) -> int:
    quote = ""
    for number, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter == ";":
            return number
    return len(text)


def steps(commands: list[str], env: dict[str, str]) -> list[Step]:
    """What these commands do, in order."""
    return [step for command in commands for piece in pieces(command) for step in _steps(piece, env)]


def _steps(piece: str, env: dict[str, str]) -> list[Step]:
    if LOOP.fullmatch(piece):
        return [Sleep(None)]
    if zeros := FILL.fullmatch(piece):
        return [Say(zeros[2].encode() * int(zeros[1]))]
    if trap := TRAP.fullmatch(piece):
        return [Trap(tuple(steps([trap[1]], env)))]
    piece = piece.removesuffix(">&2").strip()
    try:
        words = [_expanded(word, env) for word in shlex.split(piece)]
    except ValueError:
        words = [piece]
    match words:
        case ["echo", *rest]:
            return [Say((" ".join(rest) + "\n").encode())]
        case ["printf", "%s", text]:
            return [Say(text.encode())]
        case ["printf", "%b", text]:
            return [Say(_unescaped(text))]
        case ["printf", text] if "%" not in text:
            return [Say(_unescaped(text))]
        case ["head", "-c", count, "/dev/zero"] if count.isdigit():
            return [Say(bytes(int(count)))]
        case ["sleep", seconds]:
            return [Sleep(float(seconds))]
        case ["exit", code] if code.isdigit():
            return [Exit(int(code))]
        case ["true"] | []:
            return []
        case [program, *rest] if program.startswith("./"):
            return [Program(program[2:], " ".join(rest))]
    return [Say(f"sh: {words[0]}: not found\n".encode()), Exit(127)]


def _expanded(word: str, env: dict[str, str]) -> str:
    return env.get(word[1:], "") if re.fullmatch(r"\$[A-Za-z_]\w*", word) else word


def _unescaped(text: str) -> bytes:
    """``\\ooo`` and ``\\n`` as printf reads them."""

    def byte(found: re.Match[str]) -> str:
        return "\n" if found[1] == "n" else chr(int(found[1], 8) & 255)

    return re.sub(r"\\([0-7]{1,4}|n)", byte, text).encode("latin-1")
