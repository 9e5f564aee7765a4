"""How long a log line takes from the job to the notebook: from the time printed in it to its arrival on iopub.

The measuring process is neither the engine nor the kernel: it starts a real kernel, runs ``%%dstack apply`` in it and listens.
A second round with a planted slow reader must miss the goals, or the measurement could not fail.
"""

from __future__ import annotations

import re
import time
from queue import Empty

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

from .harness import Figure, engine, quantile

LINES = 400
CELL = f"""%%dstack apply -y
type: task
commands:
  - |
    python3 - <<'END'
    import time
    for number in range({LINES}):
        print(f"line {{number}} at {{time.time_ns()}}", flush=True)
        time.sleep(0.02)
    END
"""
LINE = re.compile(r"line (\d+) at (\d{19})")


def latencies() -> list[float]:
    """Seconds of each line, in one run of the cell."""
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        client.execute_interactive("%load_ext dstack_jupyter", timeout=60, output_hook=lambda _: None)
        message = client.execute(CELL)
        return listen(client, message)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def listen(client: BlockingKernelClient, message: str) -> list[float]:
    seen: dict[int, float] = {}
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            got = client.get_iopub_msg(timeout=5)
        except Empty:
            continue
        arrived = time.time_ns()
        content = got["content"]
        text = str(content.get("data", {}).get("text/plain", "")) + str(content.get("text", ""))
        for number, printed in LINE.findall(text):
            seen.setdefault(int(number), (arrived - int(printed)) / 1e9)
        if got["msg_type"] == "error":
            raise SystemExit("\n".join(content["traceback"]))
        ended = got["msg_type"] == "status" and content["execution_state"] == "idle"
        if ended and got["parent_header"].get("msg_id") == message:
            break
    if len(seen) != LINES:
        raise SystemExit(f"only {len(seen)} of {LINES} lines arrived")
    return list(seen.values())


def figures() -> list[Figure]:
    with engine():
        found = [ms * 1000 for ms in latencies()]
    with engine(slow_reader=True):
        slow = [ms * 1000 for ms in latencies()]
    note = f"{LINES} lines, 50 a second"
    caught = float(quantile(slow, 0.5) > 50 or quantile(slow, 0.99) > 250)
    return [
        Figure("log line → cell, p50", quantile(found, 0.5), "ms", 50, note=note),
        Figure("log line → cell, p99", quantile(found, 0.99), "ms", 250, note=note),
        Figure("  planted slow reader, p50", quantile(slow, 0.5), "ms"),
        Figure("  planted slow reader, p99", quantile(slow, 0.99), "ms"),
        Figure("  the planted fault was caught (1: yes)", caught, "", 1, at_least=True),
    ]
