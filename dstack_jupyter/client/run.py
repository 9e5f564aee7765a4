"""A run as a handle: what it is now, its log, its end, and what can be asked of it."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from ..models.errors import EngineUnavailable
from ..models.frames import EndFrame, Frame, GapFrame, LogFrame, PingFrame, RunFrame
from ..models.runs import RunView, StopRequest
from ..models.states import RunState
from ..transport import lines
from .log import Log

if TYPE_CHECKING:
    from .client import Client
    from .unpack import Pulled

FRAME: TypeAdapter[Frame] = TypeAdapter(Frame)

SILENT = 45.0
"""Seconds without a frame (the engine pings every 15) after which a link counts as dead."""
GIVE_UP = 60.0
"""Seconds that a stream looks for the engine before it says that there is none."""


class Run:
    """Made by ``Client``. ``view`` is what was last heard; nothing here blocks but the methods that say so."""

    def __init__(self, client: Client, view: RunView) -> None:
        self._client = client
        self.view = view

    @property
    def id(self) -> str:
        return self.view.id

    @property
    def name(self) -> str:
        return self.view.name

    @property
    def project(self) -> str:
        return self.view.project

    @property
    def state(self) -> RunState:
        return self.view.state

    @property
    def exit_code(self) -> int | None:
        return self.view.exit_code

    @property
    def ended(self) -> bool:
        return self.view.ended

    def refresh(self) -> Run:
        """Ask the engine for the run as it is now."""
        self.view = RunView(**self._client.call("GET", f"/runs/{self.id}", project=self.project))
        return self

    def stream(self, offset: int = 0, follow: bool = True, timeout: float | None = None, *, job: int = 0) -> Iterator[Frame]:
        """The run's frames: its state when it changes, a job's log from byte ``offset``, last an EndFrame. Blocks between them.

        A job that is tried again goes on with its next attempt. Goes on through restarts and handovers of the engine, at the
        very byte where it was cut. Raises EngineUnavailable when there was no engine for a minute, TimeoutError after
        ``timeout`` seconds (the run goes on).
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        cut_since: float | None = None
        attempt = ""
        while True:
            try:
                silence = max(0.01, min(SILENT, deadline - time.monotonic()))
                for frame in self._frames(silence, offset=offset, follow=int(follow), job=job, attempt=attempt):
                    cut_since = None
                    if isinstance(frame, RunFrame | EndFrame):
                        self.view = frame.run
                    elif isinstance(frame, LogFrame | GapFrame) and frame.attempt != attempt:
                        offset, attempt = (0 if attempt else offset), frame.attempt
                    if isinstance(frame, LogFrame):
                        data = base64.b64decode(frame.data)
                        if frame.offset != offset:
                            raise HTTPException(f"the log goes on at byte {frame.offset}, not {offset}")
                        offset += len(data)
                    elif isinstance(frame, GapFrame):
                        offset = frame.end
                    if not isinstance(frame, PingFrame):
                        yield frame
                    if isinstance(frame, EndFrame):
                        return
                    if time.monotonic() > deadline:
                        break
                raise HTTPException("the stream ended early")
            except (OSError, HTTPException) as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"run {self.name!r} is still {self.state}") from None
                self._client.forget()
                cut_since = cut_since or time.monotonic()
                if time.monotonic() - cut_since > GIVE_UP:
                    raise EngineUnavailable(f"lost sight of run {self.name!r}: {error}") from error
                time.sleep(0.2)

    def _frames(self, silence: float, **query: Any) -> Iterator[Frame]:
        path = f"/runs/{self.id}/logs"
        with self._client.open(path, timeout=silence, project=self.project, **query) as response:
            for line in lines(response):
                yield FRAME.validate_json(line)

    def logs(self, job: int = 0) -> Log:
        """Everything that is stored of a job's log by now (its newest attempt)."""
        return Log.collect(self.name, self.stream(follow=False, job=job))

    def raw(self, job: int = 0) -> bytes:
        """The bytes of the log, nothing added; a gap has none."""
        with self._client.open(f"/runs/{self.id}/logs/raw", project=self.project, offset=0, job=job) as response:
            return response.read()

    def wait(self, timeout: float | None = None) -> Run:
        """Block until the run has ended. Raises TimeoutError after ``timeout`` seconds (the run goes on)."""
        # From the end of the log: only the states matter here, and the last frame leaves the last view.
        for _ in self.stream(offset=1 << 62, timeout=timeout):
            pass
        return self

    def stop(self, abort: bool = False) -> Run:
        """Ask the run to end (``abort``: kill it at once). Returns at once; ``wait`` waits for the end."""
        answer = self._client.call("POST", f"/runs/{self.id}/stop", StopRequest(abort=abort), project=self.project)
        self.view = RunView(**answer)
        return self

    def pull(self, path: str = ".", to: Path | str | None = None, *, job: int = 0, overwrite: bool = False) -> Pulled:
        """Copy ``path`` of a job's working folder into the folder ``to`` (here); returns the files written.

        A file that you edited since the run was submitted stays, and is listed under ``kept``; ``overwrite`` replaces it, too.

        Raises NotFound, ConfigurationError.
        """
        from .unpack import unpack

        with self._client.open(f"/runs/{self.id}/files", timeout=600, project=self.project, path=path, job=job) as response:
            return unpack(response, Path(to or "."), edited_since=None if overwrite else self.view.submitted_at)

    def __repr__(self) -> str:
        code = "" if self.exit_code in (None, 0) else f", exit code {self.exit_code}"
        where = f" on {self.view.backend}" if self.view.backend else ""
        return f"<Run {self.name}: {self.state}{code}{where}>"
