"""A vendor in a process of its own: DigitalOcean's face of tests/clouds over HTTP, with a diary of every call as it arrives.

``python -m benchmarks.rented.vendor FILE`` writes its address to FILE and serves until it is killed. Under ``/bench`` the
benchmark reads the diary and powers machines off. Moments are Unix times of this machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clouds.catalog import PAGE_SCOPES, SWITCHES
from tests.clouds.core import Cloud, Machine, Pure, RealClock
from tests.clouds.digitalocean import DigitalOceanFace
from tests.clouds.server import Server

TOKEN = "dop_v1_benchmark"
ADDRESS_AFTER, RUNNING_AFTER = 1.0, 2.0
"""Seconds from a create to an address and to a machine that runs: less than at any vendor, so that the engine is what is seen."""


class Face(DigitalOceanFace):
    """The account of the benchmark. A list renders the droplets of its page only: the fake's own CPU is not to be measured."""

    def __init__(self) -> None:
        super().__init__(Cloud(Pure(ADDRESS_AFTER, RUNNING_AFTER), RealClock(), SWITCHES))
        self.tokens[TOKEN] = PAGE_SCOPES
        self.cloud.quota = 4000
        self.diary: list[tuple[float, str, str, str]] = []
        """(when, method, path, identity of the machine that it is about)."""
        self.told_off: dict[str, float] = {}
        """When we first answered that a machine is off."""

    def handle(self, method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        if url.startswith("/bench/"):
            return 200, {}, json.dumps(self._bench(url.removeprefix("/bench/"), json.loads(body or b"null"))).encode()
        path = url.partition("?")[0]
        about = ""
        if (method, path) == ("POST", "/v2/droplets"):
            about = json.loads(body)["name"]
        elif path.startswith("/v2/droplets/"):
            machine = self.cloud.machines.get(int(path.split("/")[3]))
            about = machine.name if machine is not None else ""
        self.diary.append((time.time(), method, path, about))
        return super().handle(method, url, headers, body)

    def _bench(self, what: str, names: Any) -> Any:
        if what == "power-off":
            for machine in self.cloud.machines.values():
                if machine.name in names:
                    machine.status = "stopped"
        if what == "forget":
            self.diary.clear()
            self.told_off.clear()
            self.requests.clear()
        return {"diary": self.diary, "off": self.told_off} if what == "diary" else {"made": self.made()}

    def made(self) -> int:
        return sum(method == "POST" and path == "/v2/droplets" for _, method, path, _ in self.diary)

    def list_droplets(self, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        gpus = query.get("type") == "gpus"
        rows = [
            machine for machine in self.cloud.listed() if machine.gpu == gpus and query.get("name", machine.name) == machine.name
        ]
        status, page = self._page("droplets", rows, query)
        return status, {**page, "droplets": [self._droplet(machine) for machine in page["droplets"]]}

    def _droplet(self, machine: Machine, *, fresh: bool = False) -> dict[str, Any]:
        if machine.status == "stopped":
            self.told_off.setdefault(machine.name, time.time())
        return super()._droplet(machine, fresh=fresh)


@dataclass(frozen=True)
class Diary:
    """What the vendor saw. Each maps an identity to moments."""

    calls: list[float]
    creates: dict[str, list[float]]
    deletes: dict[str, list[float]]
    starts: dict[str, list[float]]
    off: dict[str, float]


@dataclass(frozen=True)
class Vendor:
    """The vendor's process, for the benchmark."""

    url: str

    def ask(self, what: str, names: list[str] | None = None) -> Any:
        with urllib.request.urlopen(f"{self.url}/bench/{what}", json.dumps(names).encode(), timeout=60) as answer:
            return json.load(answer)

    def made(self) -> int:
        return int(self.ask("made")["made"])

    def diary(self) -> Diary:
        said = self.ask("diary")
        found = Diary([row[0] for row in said["diary"]], {}, {}, {}, said["off"])
        for when, method, path, about in said["diary"]:
            if (method, path) == ("POST", "/v2/droplets"):
                found.creates.setdefault(about, []).append(when)
            elif method == "DELETE" and about:
                found.deletes.setdefault(about, []).append(when)
            elif method == "POST" and path.endswith("/actions"):
                found.starts.setdefault(about, []).append(when)
        return found


@contextmanager
def vendor(folder: Path) -> Iterator[Vendor]:
    """A fresh account."""
    address = folder / "vendor"
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.rented.vendor", str(address)])
    try:
        deadline = time.monotonic() + 30
        while not address.exists():
            if time.monotonic() > deadline or process.poll() is not None:
                raise SystemExit("the vendor did not start")
            time.sleep(0.02)
        yield Vendor(address.read_text())
    finally:
        process.kill()
        process.wait(10)
        address.unlink(missing_ok=True)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    draft = target.with_suffix(".draft")
    draft.write_text(Server(Face()).url)
    draft.rename(target)
    threading.Event().wait()
