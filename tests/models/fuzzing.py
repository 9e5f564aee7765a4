"""YAML that nobody meant: mutations of the samples, and text out of their tokens. The same seed gives the same texts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = [*sorted((ROOT / "tests/models/samples").glob("*.yml")), ROOT / "tests/backends/samples/config.yml"]
TOKENS = r"""
- : | > & * ! % @ ` { } [ ] , # ? ' " \ ~ null true off -1 0 1e999 .nan 0x1F 1_000 22:22 2001-01-01 <<: *a &a
!!python/object:os.system !!binary --- ... ${{ '' "" 1.. ..1 9..1 A100:80GB:2 24GB.. 1h30m 99999999999999999999
"""
PIECES = (*TOKENS.split(), "\t", "\0", "\x85", "\ufeff", "\U0001f600", "")
WORDS = (*PIECES, " ", "\n", "\n  ", "type", "task", "commands")


def texts(count: int, seed: int = 0) -> Iterator[str]:
    """``count`` texts."""
    sources = [path.read_text() for path in SAMPLES]
    chance = random.Random(seed)
    for _ in range(count):
        kind = chance.random()
        text = chance.choice(sources)
        if kind < 0.6:
            yield _mutated(text, chance)
        elif kind < 0.8:
            yield _spliced(text, chance.choice(sources), chance)
        elif kind < 0.97:
            yield "".join(chance.choice(WORDS) for _ in range(chance.randint(1, 400)))
        else:
            yield _large(chance)


def _mutated(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 6)):
        at, length = chance.randrange(len(text) + 1), chance.choice((0, 1, 3, 30))
        text = text[:at] + chance.choice(PIECES) * chance.choice((1, 1, 1, 20)) + text[at + length :]
    return text


def _spliced(one: str, two: str, chance: random.Random) -> str:
    first, second = one.splitlines(keepends=True), two.splitlines(keepends=True)
    lines = first[: chance.randrange(len(first) + 1)] + second[chance.randrange(len(second)) :]
    if chance.random() < 0.2:
        chance.shuffle(lines)
    return "".join(lines)


def _large(chance: random.Random) -> str:
    size = chance.randint(1, 30_000)
    return chance.choice(
        [
            "type: task\ncommands:\n" + "- echo x\n" * size,
            "type: task\ncommands: [" + "x, " * size + "]\n",
            "type: task\nenv:\n" + "".join(f"  A{number}: x\n" for number in range(size)),
            "[" * size,
            "a: &a [" + "x," * 100 + "]\n" + "".join(f"b{number}: [*a, *a, *a]\n" for number in range(size // 10)),
            "projects:\n- name: main\n  backends:\n" + "  - {type: lambda}\n" * (size // 10),
            "type: task\ncommands: ['" + "x" * (size * 30) + "']\n",
        ]
    )
