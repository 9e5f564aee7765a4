"""How long and how large it is to understand a configuration: the goals of every-configuration."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path
from statistics import median

from dstack_jupyter.backends.config.check import check
from dstack_jupyter.models.errors import LimitExceeded
from dstack_jupyter.models.yaml_source import load_configuration
from tests.models.fuzzing import texts

from .harness import Figure

FUZZED = 5000
LINES = 200


def figures() -> list[Figure]:
    return [*_fuzz(), *_parse()]


def _fuzz() -> list[Figure]:
    slowest = largest = 0.0
    wrong = 0
    for text in texts(FUZZED, seed=2026):
        began = time.process_time()  # one thread, no waiting: what others do on the machine is not its fault
        wrong += not _told(text)
        slowest = max(slowest, time.process_time() - began)
    tracemalloc.start()
    for text in texts(FUZZED, seed=2026):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        _told(text)
        largest = max(largest, (tracemalloc.get_traced_memory()[1] - before) / 2**20)
    tracemalloc.stop()
    return [
        Figure(f"{FUZZED} fuzzed YAMLs: neither a result nor a located error", float(wrong), "", 0),
        Figure("the slowest of them, CPU", slowest, "s", 0.2),
        Figure("the largest of them (tracemalloc)", largest, "MiB", 50),
    ]


def _told(text: str) -> bool:
    try:
        found = check(text, file="fuzz.yml")
    except LimitExceeded:
        return True
    return found.valid or all(problem.line >= 1 for problem in found.errors)


def _parse() -> list[Figure]:
    text = "type: task\nname: long\nresources: {gpu: 24GB..}\ncommands:\n" + "".join(
        f"- python step.py --number {number}\n" for number in range(LINES - 4 - 20)
    )
    text += "env:\n" + "".join(f"  NAME_{number}: value\n" for number in range(19))
    assert text.count("\n") == LINES
    load_configuration(text)
    took = []
    for _ in range(50):
        began = time.perf_counter()
        load_configuration(text)
        took.append(time.perf_counter() - began)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.yml"
        path.write_text(text)
        whole = []
        for _ in range(7):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-m", "dstack_jupyter", "check", str(path)], check=True, stdout=subprocess.DEVNULL)
            whole.append(time.perf_counter() - began)
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return [
        Figure(f"parsing a run file of {LINES} lines, warm, median of 50", median(took), "s", 0.015),
        Figure("`jupyter dstack check` as a whole process, median of 7", median(whole), "s", 0.6, note=f"{most:.0f} MiB at most"),
    ]
