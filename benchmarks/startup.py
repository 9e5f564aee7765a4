"""What we add to the start of a notebook and of a Jupyter server."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .harness import Figure, median

LOAD = """
import time
from IPython.core.interactiveshell import InteractiveShell
import ipykernel.ipkernel
shell = InteractiveShell.instance()
began = time.perf_counter()
shell.run_line_magic("load_ext", "dstack_jupyter")
print(time.perf_counter() - began)
"""
ROUNDS = 7


def load_ext() -> float:
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "HOME": home, "IPYTHONDIR": f"{home}/ipython", "DSTACK_JUPYTER_HOME": f"{home}/state"}
        out = subprocess.run([sys.executable, "-c", LOAD], env=env, capture_output=True, text=True, check=True).stdout
    return float(out.split()[-1])


def server_start(enabled: bool) -> float:
    """Seconds from the start of the process until the server has written its info file (it answers then)."""
    with tempfile.TemporaryDirectory() as home:
        env = {
            **os.environ,
            "HOME": home,
            "JUPYTER_RUNTIME_DIR": f"{home}/runtime",
            "JUPYTER_CONFIG_DIR": f"{home}/config",
            "DSTACK_JUPYTER_HOME": f"{home}/state",
        }
        command = [sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", "--port=0", "--ip=127.0.0.1"]
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, f"--ServerApp.jpserver_extensions=dstack_jupyter_server={enabled}", f"--ServerApp.root_dir={home}"],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            runtime = Path(home) / "runtime"
            while not list(runtime.glob("jpserver-*.json")):
                if time.perf_counter() - began > 60 or process.poll() is not None:
                    raise SystemExit("the Jupyter server did not start")
                time.sleep(0.005)
            return time.perf_counter() - began
        finally:
            process.terminate()
            process.wait(30)


def figures() -> list[Figure]:
    load_ext()
    loads = [load_ext() for _ in range(ROUNDS)]
    server_start(True)
    with_us, without = [], []
    for _ in range(ROUNDS):
        without.append(server_start(False))
        with_us.append(server_start(True))
    return [
        Figure("%load_ext dstack_jupyter, median", median(loads), "s", 0.25, note=f"{ROUNDS} fresh processes"),
        Figure(
            "server start: added by the extension",
            median(with_us) - median(without),
            "s",
            0.15,
            note=f"medians {median(with_us):.2f} and {median(without):.2f} s, alternating",
        ),
    ]
