"""The crash walker: ``python -m tests.crash.walk``. Crashes an engine at its points, alone and in pairs, and judges what is left.

Needs a process of its own (the engine is imported with its points marked). Prints one JSON line; exits with 1 for a breach, for
a point of the source that no story reaches, and for an exception in ``UNVISITED`` that is none any more.

Two points with no effect between them (nothing stored, no machine touched, nothing shown to a user) have the same future, for a
crash takes memory only. So ``--singles effects`` crashes at one point of each such class of each story, and at each point of the
source by name; ``--singles all`` at every visit of every point.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import random
import secrets
import sys
import time
from collections.abc import Iterable, Iterator

from . import points
from .unvisited import UNVISITED, UNVISITED_ON

points.install()

from dstack_jupyter.models.home import ENV_HOME  # noqa: E402
from tests.postgres import FAST, Server  # noqa: E402

from . import scenarios, scenarios_cloud, scenarios_rented, stores, trial  # noqa: E402


class Walk:
    """All trials of one process on one store."""

    def __init__(self, store: stores.Store, seed: int, only: str = "") -> None:
        self.store = store
        self.seed = seed
        self.stories = [
            each for each in (*scenarios.OWN, *scenarios_rented.RENTED, *scenarios_cloud.CLOUD) if only in ("", each.name)
        ]
        self.visited: set[str] = set()
        self.crashed: set[str] = set()
        self.breaches: list[str] = []
        self.fail_fast = False
        self.count = {"visits": 0, "effects": 0, "crashes": 0, "pairs": 0, "trials": 0}

    def live(self, story: scenarios.Scenario, *crashes: int) -> trial.Outcome:
        """One trial; the same one again for the same arguments."""
        dice = random.Random(self.seed)
        secrets.token_hex = lambda count=32: dice.randbytes(count).hex()
        found = trial.run(story, self.store, crashes)
        self.count["trials"] += 1
        for trace, crash_at in zip(found.traces, crashes, strict=False):
            if len(trace) == crash_at:
                self.crashed.add(trace[-1])
        for breach in found.breaches:
            where = " then ".join(trace[-1] for trace in found.traces[: len(crashes)])
            again = f"--database {self.store.kind} --seed {self.seed} --only '{story.name}' --crash {','.join(map(str, crashes))}"
            source = f" ({story.source})" if story.source else ""
            told = f"{story.name}{source}, crash at {where}: {breach}"
            self.breaches.append(f"{told}\n  again: python -m tests.crash.walk {again}")
            sys.stderr.write(self.breaches[-1] + "\n")
        if self.breaches and self.fail_fast:
            raise SystemExit(1)
        return found

    def classes(self, trace: list[str], stamps: list[int], *, effects: bool = True, names: bool = True) -> Iterator[int]:
        """The points (from 1) at which to crash: the first of each class, and those whose names were not crashed at yet."""
        known: set[int] = {-1}
        for number, (name, stamp) in enumerate(zip(trace, stamps, strict=True), 1):
            if (effects and stamp not in known) or (names and name not in self.crashed):
                known.add(stamp)
                yield number

    def _places(self, story: scenarios.Scenario, whole: trial.Outcome, which: str, rented: int | None) -> Iterable[int]:
        """The points of a story at which to crash."""
        trace, stamps = whole.traces[0], whole.stamps[0]
        if which == "all":
            return range(1, len(trace) + 1)
        few = rented is not None and story not in scenarios.OWN
        names = self.classes(trace, stamps, effects=which == "effects" and not few, names=len(self.stories) > 1)
        if not few:
            return names
        effects = list(self.classes(trace, stamps, names=False))
        return itertools.chain(random.Random(self.seed).sample(effects, min(rented or 0, len(effects))), names)

    def singles(self, which: str, rented: int | None = None) -> dict[str, list[int]]:
        """Crash once at all points, or those of the classes and names. Returns the points of the classes, by story.

        ``rented``: so many of the classes of each story of rented machines, at places of the dice; None: all.
        """
        chosen: dict[str, list[int]] = {}
        later: dict[str, tuple[scenarios.Scenario, int, int]] = {}
        self.live(self.stories[0])  # what a process learns once (what this machine is) is learned now
        for story in self.stories:
            whole = self.live(story)
            trace, stamps = whole.traces[0], whole.stamps[0]
            self.visited |= set(trace)
            self.count["visits"] += len(trace)
            self.count["effects"] += len(set(stamps))
            chosen[story.name] = list(self.classes(trace, stamps, names=False))
            for number in self._places(story, whole, which, rented):
                found = self.live(story, number)
                assert found.traces[0] == trace[:number], f"{story.name} goes another way at {number}: not the same trial twice"
                for place, name in enumerate(found.traces[-1], 1):
                    later.setdefault(name, (story, number, place))
                self.count["crashes"] += 1
        self.visited |= set(later)
        for name in sorted(set(later) - self.crashed) if len(self.stories) > 1 else ():
            # Passed only by an engine that finds what another left.
            self.live(*later[name])
            self.count["crashes"] += 1
        return chosen

    def pairs(self, chosen: dict[str, list[int]], wanted: int | None, seed: int) -> None:
        """Crash twice: ``wanted`` times at places of the dice; None: at each class of the second life after each of the first."""
        dice = random.Random(seed)
        if wanted is None:
            for story in self.stories:
                for first in chosen[story.name]:
                    found = self.live(story, first)
                    for second in list(self.classes(found.traces[1], found.stamps[1], names=False)):
                        self.live(story, first, second)
                        self.count["pairs"] += 1
            return
        places = [(story, number) for story in self.stories for number in chosen[story.name]]
        while self.count["pairs"] < wanted:
            story, first = dice.choice(places)
            # The second engine has less to do than the first: most places of this range are reached.
            found = self.live(story, first, dice.randint(1, 220))
            self.count["pairs"] += len(found.traces) == 3


def unvisited(visited: set[str], database: str) -> list[str]:
    """What is wrong with the list of points: one that nobody reaches, an excuse that is stale."""
    functions = points.in_source()
    needed = dict.fromkeys({**UNVISITED, **UNVISITED_ON[database]}, False)
    wrong = []
    for name, function in functions.items():
        if name not in visited:
            excuse = next((each for each in needed if function.startswith(each)), None)
            if excuse is None:
                wrong.append(f"{name} is never visited")
            else:
                needed[excuse] = True
    return wrong + [
        f"{excuse} needs no excuse: all of it is visited, or it is gone" for excuse, there in needed.items() if not there
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--singles", choices=["names", "effects", "all"], default="effects")
    parser.add_argument("--rented", type=int, help="only so many effects of each story of rented machines")
    parser.add_argument("--pairs", default="0", help="a number, or `all`")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--pairs-seed", type=int, help="draws other pairs; what happens in a trial is the seed's alone")
    parser.add_argument("--only", default="", help="one story")
    parser.add_argument("--fail-fast", action="store_true", help="end with the first breach")
    parser.add_argument("--crash", default="", help="only this: the point of each life, `17,40`")
    given = parser.parse_args()
    logging.basicConfig(level=logging.CRITICAL)
    server = Server(*FAST).start() if given.database == "postgresql" else None
    store = stores.PostgreSQL(server) if server is not None else stores.SQLite()
    os.environ[ENV_HOME] = str(store.home.root)
    walk = Walk(store, given.seed, given.only)
    walk.fail_fast = given.fail_fast
    began = time.monotonic()
    try:
        if given.crash:
            walk.live(walk.stories[0])
            for story in walk.stories:
                walk.live(story, *map(int, given.crash.split(",")))
            return 1 if walk.breaches else 0
        chosen = walk.singles(given.singles, given.rented)
        drawn = given.seed if given.pairs_seed is None else given.pairs_seed
        walk.pairs(chosen, None if given.pairs == "all" else int(given.pairs), drawn)
    finally:
        store.remove()
        if server is not None:
            server.remove()
    wrong = [] if given.only else unvisited(walk.visited, given.database)
    for line in wrong:
        sys.stderr.write(line + "\n")
    names = walk.visited & set(points.in_source())
    found = {
        **walk.count,
        "stories": len(walk.stories),
        "points": len(walk.visited),
        "points of the source": len(names),
        "points crashed at": len(walk.crashed),
        "breaches": len(walk.breaches),
        "wrong": len(wrong),
        "seed": given.seed,
        "pairs' seed": drawn,
        "database": given.database,
        "seconds": round(time.monotonic() - began, 1),
    }
    sys.stdout.write(json.dumps(found) + "\n")
    return 1 if walk.breaches or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
