"""Shows a run where it was started: one output in a notebook, or plain lines in a terminal.

In a notebook everything goes through one display id: an update reaches that output from any thread, also after its cell has
ended, while ``print`` from a thread would land in whatever cell ran last.
"""

from __future__ import annotations

import base64
import codecs
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable
from typing import IO, Any, Protocol

from ..models.frames import EndFrame, Frame, GapFrame, LogFrame, RunFrame
from ..models.runs import RunView
from . import html
from .ansi import settle, strip, to_html
from .machines import lines_html, tried_lines
from .words import run_line, size

TAIL = 200
"""Lines that a cell shows; the whole log is `%dstack logs RUN`."""
LONGEST_TAIL = 60_000
"""Characters of the tail at most: an update is sent whole."""
REST = 0.03
"""Seconds between two updates of a busy view: iopub drops output past its rate limits, and a browser must draw it."""


class View(Protocol):
    """What a follower feeds. ``feed`` and ``close`` come from one thread, which may not be the main one."""

    def feed(self, frame: Frame) -> None: ...
    def close(self) -> None: ...


class Tail:
    """The last lines of a log, decoded as they come; a line that is not finished yet is shown too."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace")
        self._lines: deque[str] = deque(maxlen=TAIL)
        self._open = ""
        self.hidden = 0
        self.bytes = 0

    def add(self, data: bytes) -> None:
        self.bytes += len(data)
        *whole, rest = (self._open + self._decode.decode(data)).split("\n")
        for line in whole[-TAIL:]:
            self.hidden += len(self._lines) == TAIL
            self._lines.append(settle(line))
        self.hidden += max(0, len(whole) - TAIL)
        # A bar that redraws its line for hours must not make it long.
        self._open = rest if len(rest) < LONGEST_TAIL else settle(rest)[-LONGEST_TAIL:]

    def note(self, text: str) -> None:
        self._lines.append(f"[{text}]")

    def lines(self) -> list[str]:
        lines = [*self._lines, settle(self._open)] if self._open else list(self._lines)
        total = 0
        for number in range(len(lines) - 1, -1, -1):
            total += len(lines[number])
            if total > LONGEST_TAIL:
                return lines[number + 1 :] or [lines[-1][-LONGEST_TAIL:]]
        return lines


class NotebookView:
    """A run in one output: state, what it waits for, the tail of its log. Updated at once after a silence, then every 30 ms."""

    def __init__(self, view: RunView) -> None:
        self.run = view
        self.tail = Tail()
        self.detached = ""
        self._id = uuid.uuid4().hex
        self._changed = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._publish(update=False)
        self._thread = threading.Thread(target=self._update, name=f"dstack view {view.name}", daemon=True)
        self._thread.start()

    def feed(self, frame: Frame) -> None:
        with self._lock:
            if isinstance(frame, RunFrame | EndFrame):
                self.run = frame.run
            elif isinstance(frame, LogFrame):
                self.tail.add(base64.b64decode(frame.data))
            elif isinstance(frame, GapFrame):
                self.tail.note(frame.reason)
        self._changed.set()

    def close(self) -> None:
        """The last state is shown when this returns: it is what the notebook keeps."""
        self._closed = True
        self._changed.set()
        self._thread.join(10)

    def say(self, text: str) -> None:
        """A line of ours under the header, such as how to come back after a detach."""
        with self._lock:
            self.detached = text
        self._changed.set()

    def _update(self) -> None:
        while True:
            # While a run waits or works, its clock moves even if it says nothing.
            self._changed.wait(None if self.run.ended else 1.0)
            last = self._closed
            self._changed.clear()
            self._publish(update=True)
            if last:
                return
            time.sleep(REST)

    def _publish(self, *, update: bool) -> None:
        from IPython.display import display

        with self._lock:
            bundle = {"text/plain": self._text(), "text/html": self._html()}
        display(bundle, raw=True, display_id=self._id, update=update)  # type: ignore[no-untyped-call]

    def _header(self) -> str:
        return run_line(self.run, time.time())

    def _note(self) -> str:
        if not self.tail.hidden:
            return ""
        return f"… {self.tail.hidden} earlier lines ({size(self.tail.bytes)} in all): %dstack logs {self.run.name}"

    def _tries(self) -> list[str]:
        """What was tried in vain, while there is no log to show."""
        return [] if self.tail.bytes else [strip(line) for line in tried_lines(self.run.tried)]

    def _text(self) -> str:
        head = f"{self.run.name}: {self.run.state} {self._header()}"
        parts = [head, self.detached, *self._tries(), self._note(), *(strip(line) for line in self.tail.lines())]
        return "\n".join(part for part in parts if part)

    def _html(self) -> str:
        run = self.run
        header = f"{html.badge(run.state)} <b>{html.escape(run.name)}</b> "
        header += f'<span style="{html.MUTED}">{html.escape(strip(self._header()))}</span>'
        if self.detached:
            header += f'<div style="{html.MUTED}">{html.escape(self.detached)}</div>'
        header += lines_html(self._tries())
        lines = self.tail.lines()
        body = html.log_block(to_html("\n".join(lines)), self._note()) if lines else ""
        return html.card(header, body)


class TerminalView:
    """A run in a terminal: its log to ``out`` as it comes, its states to ``err``."""

    def __init__(self, view: RunView, out: IO[str] | None = None, err: IO[str] | None = None, *, raw: bool = False) -> None:
        self.run = view
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self._decode = codecs.getincrementaldecoder("utf-8")("replace")
        self._raw = raw
        self._said = ""
        self._tried: list[str] = []
        self._say_state(view)

    def feed(self, frame: Frame) -> None:
        if isinstance(frame, RunFrame | EndFrame):
            self._say_state(frame.run)
        elif isinstance(frame, LogFrame):
            text = self._decode.decode(base64.b64decode(frame.data))
            self._out.write(text if self._raw else _for_terminal(text))
            self._out.flush()
        elif isinstance(frame, GapFrame):
            self.say(frame.reason)

    def say(self, text: str) -> None:
        print(text, file=self._err, flush=True)

    def close(self) -> None:
        self._out.flush()

    def _say_state(self, view: RunView) -> None:
        self.run = view
        # A further submission of the run begins its tries anew.
        told = len(self._tried) if view.tried[: len(self._tried)] == self._tried else 0
        for line in view.tried[told:]:
            self.say(strip(f"{view.name}: {line}"))
        self._tried = view.tried
        line = f"{view.name}: {view.state}" + (f" · {view.message}" if view.message else "")
        if line != self._said:
            self._said = line
            self.say(strip(line))


def _for_terminal(text: str) -> str:
    """Job output for a terminal: colours and carriage returns pass, whatever else a terminal would obey does not."""
    from .ansi import CONTROL

    return CONTROL.sub(lambda match: match[0] if match["final"] or match[0] == "\r" else "", text)


def follow(frames: Iterable[Frame], view: View) -> threading.Thread:
    """Feed a view from a thread of its own until the frames end. The thread keeps what it raised in ``error``."""
    thread = _Follower(frames, view)
    thread.start()
    return thread


class _Follower(threading.Thread):
    def __init__(self, frames: Iterable[Frame], view: View) -> None:
        super().__init__(name="dstack follow", daemon=True)
        self._frames = frames
        self._view = view
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for frame in self._frames:
                self._view.feed(frame)
        except Exception as error:
            self.error = error  # raised again by whoever waits for us
        finally:
            self._view.close()


def wait(thread: Any) -> None:
    """Wait for a follower so that an interrupt gets through; raises what it raised."""
    while thread.is_alive():
        thread.join(0.5)
    if thread.error is not None:
        raise thread.error
