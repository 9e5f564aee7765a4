"""How long a run that does nothing takes, and how many of them a second: from a client outside the engine."""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor

from dstack_jupyter.client import Client, Run, connect
from dstack_jupyter.models.runs import ApplyRequest, Context

from .harness import Figure, engine, median, quantile

NO_OP = {"type": "task", "commands": ["true"]}


def apply(client: Client) -> Run:
    return client.apply(ApplyRequest(configuration=NO_OP, request_key=secrets.token_hex(8), context=Context(cwd="/")))


def figures() -> list[Figure]:
    with engine():
        client = connect()
        apply(client).wait(30)
        single = []
        for _ in range(20):
            began = time.perf_counter()
            apply(client).wait(30)
            single.append(time.perf_counter() - began)
        began = time.perf_counter()
        with ThreadPoolExecutor(8) as pool:
            runs = list(pool.map(lambda _: apply(client), range(100)))
            list(pool.map(lambda run: run.wait(60), runs))
        rate = 100 / (time.perf_counter() - began)
        failed = [run for run in client.runs(all=True) if run.state != "done"]
    return [
        Figure("no-op run on local: apply → done reported, median", median(single), "s", 0.5),
        Figure("no-op run on local: apply → done reported, p95", quantile(single, 0.95), "s", note="20 runs"),
        Figure("100 no-op runs, 8 submitters", rate, "runs/s", 50, at_least=True, note=f"{len(failed)} failed"),
    ]
