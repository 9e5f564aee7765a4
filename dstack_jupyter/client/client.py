"""The client of the engine: synchronous, safe on any thread, and ready for an engine that moves or restarts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, TypeVar

from ..models.backends import BackendView
from ..models.cleanup_view import AccountView, CleanupRequest, EndedView, ForgetRequest
from ..models.engine import EngineInfo, EventView
from ..models.errors import EngineUnavailable, LostLease
from ..models.fleets_view import FleetPlan, FleetRequest, FleetView
from ..models.home import Home
from ..models.instances import InstanceView
from ..models.runs import ApplyRequest, Plan, PlanRequest, RunView
from ..transport import open_response, request
from . import discovery
from .run import Run

Result = TypeVar("Result")

BROKEN = (OSError, HTTPException)
"""What a call raises when the engine went away; an interrupt is not among them."""
TRIES = 3


class Client:
    """Made by ``connect``. Every call finds the engine again after a broken connection; all of them can be repeated:
    reading changes nothing, a stop asked twice is one stop, and ``apply`` carries a key that makes it one run."""

    def __init__(self, home: Home, *, start: bool = True) -> None:
        self.home = home
        self.notices: list[str] = []
        """What the user should be told once, such as that an engine was started. Whoever shows it empties it."""
        self._start = start
        self._socket = ""
        self._lock = threading.Lock()

    def socket(self) -> str:
        """The engine's socket; finds or starts the engine if needed. Raises EngineUnavailable."""
        with self._lock:
            if not self._socket:
                self._socket, notice = discovery.find(self.home, start=self._start)
                if notice:
                    self.notices.append(notice)
            return self._socket

    def forget(self) -> None:
        """Look for the engine again at the next call: what was known did not answer."""
        with self._lock:
            self._socket = ""

    def _retrying(self, call: Callable[[str], Result]) -> Result:
        for remaining in reversed(range(TRIES)):
            try:
                return call(self.socket())
            except BROKEN as error:
                self.forget()
                if not remaining:
                    raise EngineUnavailable(f"the engine does not answer ({error})", hint="`%dstack doctor` says more") from error
                time.sleep(0.1)
            except LostLease:
                # It woke up after another had taken over, and changed nothing: that one is asked.
                self.forget()
                if not remaining:
                    raise
                time.sleep(0.5)
        raise AssertionError("unreachable")

    def call(self, method: str, path: str, model: Any = None, /, **query: Any) -> Any:
        """One JSON call. Raises what the engine answers with, EngineUnavailable."""
        body = None if model is None else model.model_dump_json().encode()
        headers = {"Content-Type": "application/json"}
        return self._retrying(lambda socket: request(socket, method, path, query=query or None, body=body, headers=headers))

    def open(self, path: str, /, *, timeout: float = 60.0, **query: Any) -> HTTPResponse:
        """A streaming GET; the caller reads and closes it."""
        return self._retrying(lambda socket: open_response(socket, "GET", path, query=query, timeout=timeout))

    def info(self) -> EngineInfo:
        return EngineInfo(**self.call("GET", "/info"))

    def backends(self) -> list[BackendView]:
        return [BackendView(**line) for line in self.call("GET", "/backends")]

    def doctor(self) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = self.call("GET", "/doctor")
        return lines

    def rotate_key(self) -> dict[str, Any]:
        """A new key for the store: ``{key, forgotten, values}``. One that was cut off is gone on with."""
        answer: dict[str, Any] = self.call("POST", "/engine/rotate-key")
        return answer

    def plan(self, wanted: PlanRequest) -> Plan:
        return Plan(**self.call("POST", "/runs/plan", wanted))

    def apply(self, wanted: ApplyRequest) -> Run:
        """Submit a run and return its handle; it is stored when this returns."""
        return Run(self, RunView(**self.call("POST", "/runs", wanted)))

    def apply_fleet(self, wanted: FleetRequest) -> FleetView:
        """Apply a fleet; its hosts are reached, its machines rented afterwards: ``fleet`` tells."""
        return FleetView(**self.call("POST", "/fleets", wanted))

    def plan_fleet(self, wanted: FleetRequest) -> FleetPlan:
        """What ``apply_fleet`` would rent at once."""
        return FleetPlan(**self.call("POST", "/fleets/plan", wanted))

    def fleets(self, project: str = "main") -> list[FleetView]:
        return [FleetView(**view) for view in self.call("GET", "/fleets", project=project)]

    def fleet(self, name: str, project: str = "main") -> FleetView:
        return FleetView(**self.call("GET", f"/fleets/{name}", project=project))

    def delete_fleet(self, name: str, project: str = "main") -> None:
        self.call("DELETE", f"/fleets/{name}", project=project)

    def trust(self, fleet: str, host: str, project: str = "main") -> None:
        """Forget the pinned key of a host."""
        self.call("POST", f"/fleets/{fleet}/hosts/{host}/trust", project=project)

    def cleanup(self) -> list[AccountView]:
        """Everything that this installation ever made in the accounts, the vendors asked now."""
        return [AccountView(**view) for view in self.call("GET", "/cleanup")]

    def clean(self, wanted: CleanupRequest) -> list[EndedView]:
        """End what nobody needs. Asked twice it is ended once. Raises NotFound, BackendError."""
        return [EndedView(**view) for view in self.call("POST", "/cleanup", wanted)]

    def forget_machine(self, name: str) -> EndedView:
        """End the row of a machine whose account cannot be asked any more. Raises NotFound, Conflict where it can."""
        return EndedView(**self.call("POST", "/cleanup/forget", ForgetRequest(name=name)))

    def machines(self, project: str = "main", all: bool = False) -> list[InstanceView]:
        """Rented machines, oldest first; with ``all`` those that ended in the last day too."""
        return [InstanceView(**view) for view in self.call("GET", "/machines", project=project, all=int(all))]

    def runs(self, project: str = "main", all: bool = False, last: int | None = None) -> list[Run]:
        answer = self.call("GET", "/runs", project=project, all=int(all), last=last or 0)
        return [Run(self, RunView(**view)) for view in answer]

    def run(self, ref: str, project: str = "main") -> Run:
        return Run(self, RunView(**self.call("GET", f"/runs/{ref}", project=project)))

    def events(self, project: str = "main", after: int = 0, limit: int = 100, run: str = "") -> list[EventView]:
        answer = self.call("GET", "/events", project=project, after=after, limit=limit, run=run)
        return [EventView(**line) for line in answer]

    def upload(self, path: Path, sha256: str) -> None:
        """Send an archive unless the engine has it. Raises LimitExceeded, StorageFull."""

        def send(socket: str) -> None:
            with open_response(socket, "HEAD", f"/code/{sha256}") as there:
                if there.status == 200:
                    return
            with path.open("rb") as file:
                headers = {"Content-Length": str(path.stat().st_size), "Content-Type": "application/x-tar"}
                open_response(socket, "PUT", f"/code/{sha256}", body=file, headers=headers, timeout=600).close()

        self._retrying(send)
