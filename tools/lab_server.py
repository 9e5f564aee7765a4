"""A JupyterLab for tests and screenshots: a home, a port and a root folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "lab-test-token"


@dataclass(frozen=True)
class Lab:
    url: str
    pid: int
    state: Path

    def drive(self, notebook: str, png: Path, *steps: str, timeout: float = 300) -> tuple[int, str]:
        """Run tools/lab.mjs: (exit code, what it printed)."""
        done = subprocess.run(
            ["node", str(ROOT / "tools" / "lab.mjs"), self.url, TOKEN, notebook, str(png), *steps],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return done.returncode, done.stdout + done.stderr


def listening_port(runtime: Path) -> int | None:
    """The port of the server with this runtime folder; None while nobody listens there.

    A server writes its file before it listens, and not in one piece.
    """
    for file in runtime.glob("jpserver-*.json"):
        with contextlib.suppress(json.JSONDecodeError, ConnectionRefusedError):
            port = int(json.loads(file.read_text())["port"])
            socket.create_connection(("127.0.0.1", port), 5).close()
            return port
    return None


@contextlib.contextmanager
def lab(home: Path, root: Path) -> Iterator[Lab]:
    """A running JupyterLab whose user's HOME is ``home``; it ends with the context, and its runs' engine with it."""
    env = {**os.environ, "HOME": str(home), "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "IPYTHONDIR": str(home / "ipython")}
    env |= {"JUPYTER_CONFIG_DIR": str(home / "config"), "DSTACK_JUPYTER_HOME": str(home / "state")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command += ["--ServerApp.port=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={root}"]
    command += [
        "--LabApp.news_url=",
        "--LabApp.extension_manager=readonly",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    log = (home / "lab.log").open("w")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=root)
    try:
        deadline = time.monotonic() + 60
        while (port := listening_port(home / "runtime")) is None:
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"JupyterLab did not start: {(home / 'lab.log').read_text()[-2000:]}")
            time.sleep(0.05)
        yield Lab(f"http://127.0.0.1:{port}", process.pid, home / "state")
    finally:
        process.terminate()
        process.wait(30)
        log.close()
