"""``python -m benchmarks [PART …]``: prints the figures of all parts or of those named; exit code 1 if a goal was missed."""

from __future__ import annotations

import sys

from . import configurations, engine, hosts, logline, machines, offers, runs, startup
from .harness import machine

PARTS = (runs, logline, startup, configurations, offers, engine, hosts, machines)
ALL = {part.__name__.rpartition(".")[2]: part for part in PARTS}


def main() -> int:
    wanted = sys.argv[1:] or list(ALL)
    print(f"machine: {machine()}\n")
    missed = 0
    for name in wanted:
        for figure in ALL[name].figures():
            print(figure, flush=True)
            missed += not figure.ok
    print(f"\n{missed} goals missed" if missed else "\nall goals met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
