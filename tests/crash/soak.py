"""What takes hours: ``make soak``. Every part is a process of its own; the last lines say which held.

Set by the environment, with what they are otherwise:
    DJ_SOAK_VIRTUAL_HOURS=24  virtual time of one engine under steady work in a simulated world
    DJ_SOAK_MINUTES=60        real time of one engine under steady work on this machine
    DJ_SOAK_PAIRS=all         pairs of crashes on each database (a number, or all)
    DJ_SOAK_SINGLES=all       `all` visits of all points, or `effects` (tests/crash/walk.py)
    DJ_SOAK_KILLS=200         SIGKILLs of a real Jupyter server on each database
    DJ_SOAK_EXAMPLES=500      histories of the Hypothesis machine, of 60 steps each
    DJ_SOAK_PARTS=            only these, of: virtual real walk-sqlite walk-postgresql kills model engines
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.simulated.life import Life
from tests.simulated.loop import Clock
from tests.simulated.world import World

ROOT = Path(__file__).resolve().parents[2]
PAGE = os.sysconf("SC_PAGE_SIZE")
WARM = 0.25
"""Share of the samples that is not counted: caches fill."""
LIMITS = {"tasks": 0.5, "descriptors": 0.5, "entries": 0.5, "memory_mb": 1.0}
"""What may be added in an hour."""


def env(name: str, default: str) -> str:
    return os.environ.get(f"DJ_SOAK_{name}", default)


@dataclass
class Gauge:
    """Samples of one engine's process: hours, and what it holds then."""

    samples: list[tuple[float, dict[str, float]]] = field(default_factory=list)

    def take(self, hours: float, engine: Any) -> None:
        gc.collect()
        found = {
            "tasks": float(len(asyncio.all_tasks())),
            "descriptors": float(len(os.listdir("/proc/self/fd"))),
            "entries": float(len(engine._queue._entries)),
            "memory_mb": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20,
        }
        self.samples.append((hours, found))

    def slopes(self) -> dict[str, float]:
        """Of each, what is added in an hour: least squares over the samples after the warm ones."""
        kept = self.samples[int(len(self.samples) * WARM) :]
        mean = sum(hours for hours, _ in kept) / len(kept)
        spread = sum((hours - mean) ** 2 for hours, _ in kept) or 1.0
        found = {}
        for name in LIMITS:
            middle = sum(values[name] for _, values in kept) / len(kept)
            found[name] = sum((hours - mean) * (values[name] - middle) for hours, values in kept) / spread
        return found

    def verdict(self, what: str) -> int:
        slopes = self.slopes()
        first, last = self.samples[0][1], self.samples[-1][1]
        for name, limit in LIMITS.items():
            held = slopes[name] <= limit
            print(
                f"{what}: {name} {first[name]:.1f} -> {last[name]:.1f}, {slopes[name]:+.3f} an hour "
                f"(limit {limit}) {'' if held else 'MISSED'}"
            )
        return 0 if all(slopes[name] <= limit for name, limit in LIMITS.items()) else 1


def virtual(hours: float) -> int:
    """Runs of every kind, for so many virtual hours, in one engine's life."""
    from dstack_jupyter.models.home import ENV_HOME

    from .scenarios import DESK, LOG, UP, programs
    from .stores import SQLite
    from .story import Story, apply, fleet, stop

    store = SQLite()
    os.environ[ENV_HOME] = str(store.home.root)
    home = store.renew()
    world = World(Clock())
    programs(world)
    story = Story(world)
    gauge = Gauge()
    began = world.time.now
    life = Life(home, world)

    async def work(engine: Any) -> int:
        count = 0
        await fleet("desk", "h1", "h2")(engine, story)
        while world.time.now - began < hours * 3600:
            names = [f"run-{count + number}" for number in range(5)]
            count += 5
            await apply(names[0], *LOG)(engine, story)
            await apply(names[1], *UP)(engine, story)
            await apply(names[2], *LOG, **DESK)(engine, story)
            await apply(names[3], "./fails-at-first", retry={"on_events": ["error"], "duration": "1h"})(engine, story)
            await apply(names[4], *LOG, backends=["simulated"])(engine, story)
            await asyncio.sleep(120)
            await stop(names[1])(engine, story)
            await asyncio.sleep(180)
            for host in world.hosts.values():  # the world forgets: what it holds is not the engine's
                for attempt_id in [
                    id for id, job in host.jobs.items() if job.over and job.ended and job.ended < world.time.now - 3600
                ]:
                    del host.jobs[attempt_id]
                    host.listeners.pop(attempt_id, None)
            world.vms[:] = [vm for vm in world.vms if vm.gone is None]
            story.submitted.clear()
            gauge.take((world.time.now - began) / 3600, engine)
        return count

    try:
        count = life.run(work)
        open_runs = store.rows("SELECT id FROM runs WHERE state NOT IN ('done', 'failed', 'terminated')")
        life.end()
    finally:
        store.remove()
    print(f"virtual: {hours:g} h, {count} runs, {len(open_runs)} not ended")
    return gauge.verdict("virtual") or bool(open_runs)


def child(*command: str, **more: str) -> int:
    return subprocess.run([sys.executable, "-W", "ignore", *command], cwd=ROOT, env={**os.environ, **more}).returncode


def walk(database: str) -> int:
    return child(
        "-m", "tests.crash.walk", "--database", database, "--singles", env("SINGLES", "all"), "--pairs", env("PAIRS", "all")
    )


PARTS: dict[str, Callable[[], int]] = {
    "virtual": lambda: virtual(float(env("VIRTUAL_HOURS", "24"))),
    "real": lambda: child("-m", "benchmarks.soak", str(60 * float(env("MINUTES", "60")))),
    "walk-sqlite": lambda: walk("sqlite"),
    "walk-postgresql": lambda: walk("postgresql"),
    "kills": lambda: child(
        "-m", "pytest", "-s", "-q", "tests/crash/test_kill.py", "-m", "machines", DJ_KILLS=env("KILLS", "200")
    ),
    "model": lambda: child(
        "-m", "pytest", "-s", "-q", "tests/crash/test_model.py", DJ_MODEL_EXAMPLES=env("EXAMPLES", "500"), DJ_MODEL_STEPS="60"
    ),
    "engines": lambda: child("-m", "pytest", "-q", "tests/crash/test_two_engines.py", DJ_TWO_ENGINES="all"),
}


def main() -> int:
    if len(sys.argv) > 1:
        return PARTS[sys.argv[1]]()
    chosen = env("PARTS", " ".join(PARTS)).split()
    codes = {}
    for name in chosen:
        began = time.monotonic()
        codes[name] = child("-m", "tests.crash.soak", name)
        print(f"soak {name}: {'held' if codes[name] == 0 else 'FAILED'} after {time.monotonic() - began:.0f} s", flush=True)
    return 1 if any(codes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
