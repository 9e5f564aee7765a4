"""Queries of offers: the six of the price catalogue's README on its 179,109 rows, beside gpuhunt in the same run.

The set is made from ``shared/catalog`` beside the project; gpuhunt is installed from PyPI into ``out/gpuhunt``, an environment of
its own, and asked in a process of its own (``benchmarks/offers_gpuhunt.py``).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dstack_jupyter.backends.collect import collect
from dstack_jupyter.models.resources import Resources
from dstack_jupyter.offers import snapshot
from dstack_jupyter.offers.frame import to_frame
from dstack_jupyter.offers.requirements import Requirements
from dstack_jupyter.offers.rows import Rows
from dstack_jupyter.offers.table import OfferTable, merge
from tests.offers.vendors import row, vendor

from .harness import Figure, median

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out"
GPUHUNT = "gpuhunt==0.1.34"
RANDOM_QUERIES = 200
SEED = 2026

Query = dict[str, Any]
"""Arguments of gpuhunt's ``Catalog.query``; ``to_wanted`` says them in our words."""

SIX: dict[str, tuple[Query, int | None, int]] = {
    "A100, ≥ 80 GB, 1..8": ({"gpu_name": ["A100"], "min_gpu_memory": 80, "min_gpu_count": 1, "max_gpu_count": 8}, None, 351),
    "H100, 8": ({"gpu_name": ["H100"], "min_gpu_count": 8, "max_gpu_count": 8}, None, 144),
    "any GPU, ≥ 24 GB, spot": ({"min_gpu_memory": 24, "min_gpu_count": 1, "spot": True}, None, 1303),
    "cpu ≥ 4, memory ≥ 16 GB": ({"min_cpu": 4, "min_memory": 16}, None, 147_214),
    "H100, 8, cheapest 10": ({"gpu_name": ["H100"], "min_gpu_count": 8, "max_gpu_count": 8}, 10, 10),
    "cpu ≥ 4, memory ≥ 16 GB, cheapest 10": ({"min_cpu": 4, "min_memory": 16}, 10, 10),
}
BROAD = "cpu ≥ 4, memory ≥ 16 GB"


def catalog() -> Path | None:
    """The folder of price lists, beside the project or beside a folder that holds it."""
    found = (parent / "shared" / "catalog" for parent in ROOT.parents)
    return next((path for path in found if (path / "make_bench_rows.py").exists()), None)


def figures() -> Iterator[Figure]:
    folder = catalog()
    if folder is None:
        yield Figure("queries of 179,109 offers", 0, "", note="left out: there is no shared/catalog beside the project")
    else:
        with tempfile.TemporaryDirectory(prefix="dj-offers-") as work:
            yield from _queries(folder, Path(work))
    yield from _whole()
    yield from _dead()


def read_set(path: Path) -> tuple[Rows, list[dict[str, Any]]]:
    """(rows, the same as plain dicts for the loop)."""
    import pandas as pd

    frame = pd.read_csv(path, keep_default_na=False)
    names = {"instance": "instance_type", "cpu": "cpus", "memory": "memory_gb", "gpu_memory": "gpu_memory_gb", "arch": "cpu_arch"}
    frame = frame.rename(columns=names)
    columns: dict[str, Any] = {name: frame[name].tolist() for name in frame.columns}
    return Rows.of(columns), frame.to_dict("records")


def to_wanted(query: Query) -> Requirements:
    def span(name: str) -> dict[str, Any]:
        ends = {"min": query.get(f"min_{name}"), "max": query.get(f"max_{name}")}
        return {key: value for key, value in ends.items() if value is not None}

    gpu: dict[str, Any] = {"count": span("gpu_count")} if span("gpu_count") else {"count": {"min": 0}}
    gpu |= {key: span(name) for key, name in (("memory", "gpu_memory"), ("total_memory", "total_gpu_memory")) if span(name)}
    gpu |= {key: query[name] for key, name in (("name", "gpu_name"), ("vendor", "gpu_vendor")) if name in query}
    resources: dict[str, Any] = {} if gpu == {"count": {"min": 0}} else {"gpu": gpu}
    if span("cpu") or "cpu_arch" in query:
        resources["cpu"] = {"count": span("cpu") or {"min": 0}} | ({"arch": query["cpu_arch"]} if "cpu_arch" in query else {})
    if span("memory"):
        resources["memory"] = span("memory")
    return Requirements(
        Resources.model_validate(resources), spot=query.get("spot"), max_price=query.get("max_price"), defaults_filter=False
    )


def loop(rows: list[dict[str, Any]], query: Query) -> list[tuple[Any, ...]]:
    """What a query means, row by row."""
    found = []
    names = [name.lower() for name in query.get("gpu_name", ())]
    for one in rows:
        if "spot" in query and one["spot"] != query["spot"]:
            continue
        if one["price"] > query.get("max_price", 1e9) or not query.get("min_cpu", 0) <= one["cpus"] <= query.get("max_cpu", 1e9):
            continue
        if not query.get("min_memory", 0) <= one["memory_gb"] <= query.get("max_memory", 1e9):
            continue
        if "cpu_arch" in query and one["cpu_arch"] != query["cpu_arch"]:
            continue
        gpus = one["gpu_count"]
        if not query.get("min_gpu_count", 0) <= gpus <= query.get("max_gpu_count", 1e9):
            continue
        if gpus and (
            (names and one["gpu_name"].lower() not in names)
            or ("gpu_vendor" in query and one["gpu_vendor"] != query["gpu_vendor"])
            or not query.get("min_gpu_memory", 0) <= one["gpu_memory_gb"] <= query.get("max_gpu_memory", 1e9)
            or not query.get("min_total_gpu_memory", 0) <= one["gpu_memory_gb"] * gpus <= query.get("max_total_gpu_memory", 1e9)
        ):
            continue
        found.append((one["instance_type"], one["region"], one["price"], one["spot"]))
    return found


def mark(offers: list[tuple[Any, ...]]) -> str:
    """The same for the same multiset of (instance, region, price, spot), here and in gpuhunt's process."""
    return hashlib.sha256(json.dumps(sorted(offers)).encode()).hexdigest()


def random_queries(rows: Rows) -> list[Query]:
    rng = random.Random(SEED)
    names = [word for word in rows.text["gpu_name"].words if word]
    found: list[Query] = []
    while len(found) < RANDOM_QUERIES:
        query: Query = {}
        if rng.random() < 0.8:
            query["min_gpu_count"] = rng.choice([0, 1, 1, 2, 4, 8])
            if rng.random() < 0.4:
                query["max_gpu_count"] = query["min_gpu_count"] + rng.choice([0, 1, 7])
            if rng.random() < 0.5:
                query["gpu_name"] = rng.sample(names, rng.choice([1, 2, 3]))
            if rng.random() < 0.2:
                query["gpu_vendor"] = rng.choice(["nvidia", "amd"])
            if rng.random() < 0.4:
                query["min_gpu_memory"] = rng.choice([16, 24, 40, 80])
            if rng.random() < 0.2:
                query["max_gpu_memory"] = rng.choice([80, 141, 192])
            if rng.random() < 0.2:
                query["min_total_gpu_memory"] = rng.choice([80, 160, 640])
        for name, values in (("cpu", [2, 4, 16, 64]), ("memory", [4, 16, 64, 256])):
            if rng.random() < 0.4:
                query[f"min_{name}"] = rng.choice(values)
            if rng.random() < 0.15:
                query[f"max_{name}"] = query.get(f"min_{name}", 2) * rng.choice([1, 4])
        if rng.random() < 0.2:
            query["cpu_arch"] = rng.choice(["x86", "arm"])
        if rng.random() < 0.4:
            query["spot"] = rng.random() < 0.5
        if rng.random() < 0.3:
            query["max_price"] = rng.choice([1.0, 5.0, 30.0])
        found.append(query)
    return found


def timed(work: Callable[[], object], rounds: int = 31) -> float:
    """Milliseconds, median; the first round warms up."""
    work()
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return median(took) * 1000


def peer(work: Path, csv: Path, queries: list[Query]) -> dict[str, Any]:
    """Times and marks of gpuhunt: ``{version, times: {query: ms}, marks: […]}``."""
    home = OUT / "gpuhunt"
    python = home / "bin" / "python"
    if not python.exists():
        venv.create(home, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", GPUHUNT], check=True)
    asked = work / "queries.json"
    asked.write_text(json.dumps({"six": {name: query for name, (query, _, _) in SIX.items()}, "random": queries}))
    script = Path(__file__).with_name("offers_gpuhunt.py")
    out = subprocess.run([python, script, csv, asked], check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(out)
    return found


def _queries(folder: Path, work: Path) -> Iterator[Figure]:
    csv, large = work / "rows.csv", work / "rows8.csv"
    subprocess.run([sys.executable, folder / "make_bench_rows.py", csv], check=True, stdout=subprocess.DEVNULL)
    rows, plain = read_set(csv)
    table = OfferTable(rows)
    queries = random_queries(rows)
    theirs = peer(work, csv, queries)
    goals = {BROAD: (10.0, 60.0), "H100, 8, cheapest 10": (1.0, None), "cpu ≥ 4, memory ≥ 16 GB, cheapest 10": (1.0, None)}
    for name, (query, limit, hits) in SIX.items():
        wanted = to_wanted(query)
        if (got := len(table.query(wanted, limit))) != hits:
            raise SystemExit(f"{name}: {got} hits instead of {hits}")
        in_table = timed(lambda wanted=wanted, limit=limit: table.query(wanted, limit))  # type: ignore[misc]
        finished = timed(lambda wanted=wanted, limit=limit: to_frame(merge([table.query(wanted, limit)])))  # type: ignore[misc]
        of_table, of_frame = goals.get(name, (0.2, 5.0))
        yield Figure(f"{name}: table", in_table, "ms", of_table, note=f"{hits} of {len(table)} rows")
        yield Figure(f"{name}: DataFrame", finished, "ms", of_frame)
        other = theirs["times"][name]
        gpus = "gpu" in wanted.resources.model_fields_set and limit is None
        yield Figure(
            "  times as quick as gpuhunt: table", other / in_table, "×", 100 if gpus else None, True, f"gpuhunt {other:.0f} ms"
        )
        yield Figure("  times as quick as gpuhunt: DataFrame", other / finished, "×", 30 if gpus else None, True)
    yield from _equal(table, plain, queries, theirs)
    yield from _load(work, rows)
    subprocess.run([sys.executable, folder / "make_bench_rows.py", large, "8"], check=True, stdout=subprocess.DEVNULL)
    eight = OfferTable(read_set(large)[0])
    for name, (query, limit, _) in list(SIX.items())[:3]:
        wanted = to_wanted(query)
        took = timed(lambda wanted=wanted, limit=limit: eight.query(wanted, limit))  # type: ignore[misc]
        yield Figure(f"8 × the rows, {name}: table", took, "ms", 0.5, note=f"{len(eight.query(wanted))} of {len(eight)}")


def _equal(table: OfferTable, plain: list[dict[str, Any]], queries: list[Query], theirs: dict[str, Any]) -> Iterator[Figure]:
    loops = peers = unsorted = some = 0
    for query, other in zip(queries, theirs["marks"], strict=True):
        columns = table.query(to_wanted(query)).rows().lists()
        ours = list(zip(columns["instance_type"], columns["region"], columns["price"], columns["spot"], strict=True))
        some += bool(ours)
        loops += mark(ours) != mark(loop(plain, query))
        peers += mark(ours) != other
        unsorted += columns["price"] != sorted(columns["price"])
    yield Figure(f"{len(queries)} random queries, seed {SEED}: unlike a loop", loops, "", 0, note=f"{some} of them with hits")
    yield Figure("  unlike gpuhunt's multiset", peers, "", 0, note=f"gpuhunt {theirs['version']}")
    yield Figure("  not sorted by price", unsorted, "", 0)


LOAD = """
import sys, time
from dstack_jupyter.offers import snapshot
began = time.perf_counter()
with open(sys.argv[1], "rb") as file:
    table = snapshot.read(file.read())
print(time.perf_counter() - began, len(table))
"""
SHIPPED = """
import time
from dstack_jupyter.offers import snapshot
began = time.perf_counter()
rows = sum(len(snapshot.shipped(name)) for name in snapshot.SHIPPED)
print(time.perf_counter() - began, rows)
"""


def fresh(code: str, *arguments: str) -> tuple[float, str]:
    """(seconds, median of 9 fresh processes; the rest of what they print)."""
    outs = [
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True) for _ in range(9)
    ]
    lines = [out.stdout.split() for out in outs]
    return median([float(line[0]) for line in lines]), lines[0][1]


def _load(work: Path, rows: Rows) -> Iterator[Figure]:
    file = work / "rows.npz"
    rows.numbers["price"][:] = rows.numbers["price"].round(6)
    snapshot.write(rows, file)
    took, count = fresh(LOAD, str(file))
    yield Figure(
        "cold load of the set, after imports", took * 1000, "ms", 60, note=f"{count} rows, {file.stat().st_size >> 10} KiB"
    )


def _whole() -> Iterator[Figure]:
    took, count = fresh(SHIPPED)
    yield Figure("cold load of the shipped list prices", took * 1000, "ms", note=f"{count} rows, three files")
    with tempfile.TemporaryDirectory(prefix="dj-offers-") as home:
        env = {**os.environ, "HOME": home, "DSTACK_JUPYTER_HOME": f"{home}/state"}
        jupyter = str(Path(sys.executable).with_name("jupyter"))
        whole = []
        for _ in range(9):
            began = time.perf_counter()
            subprocess.run([jupyter, "dstack", "offers", "--gpu", "H100:8"], env=env, check=True, capture_output=True)
            whole.append(time.perf_counter() - began)
    yield Figure("`jupyter dstack offers --gpu H100:8`, whole process", median(whole), "s", 0.6, note="median of 9")


def _dead() -> Iterator[Figure]:
    """A vendor whose socket takes the connection and never says a word for 30 s."""
    with tempfile.TemporaryDirectory(prefix="dj-offers-") as home:
        os.environ["DSTACK_JUPYTER_HOME"] = f"{home}/state"
        wanted = Requirements(Resources.model_validate({"gpu": "H100:8"}), defaults_filter=False)
        with vendor("acme", row("acme")):
            collect(wanted, seconds=10, catalog=True)
            alive = slowest(wanted)
            with vendor("dead"), socket.create_server(("127.0.0.1", 0)) as silent:
                os.environ["VENDOR_DEAD_PORT"] = str(silent.getsockname()[1])
                dead = slowest(wanted)
        os.environ.pop("DSTACK_JUPYTER_HOME")
    yield Figure(
        "slowest of 50 queries while a vendor is dead", dead, "ms", 100, note=f"{alive:.1f} ms without it; all live backends"
    )


def slowest(wanted: Requirements) -> float:
    took = []
    for _ in range(50):
        began = time.perf_counter()
        collect(wanted, catalog=True)
        took.append(time.perf_counter() - began)
    return max(took) * 1000
