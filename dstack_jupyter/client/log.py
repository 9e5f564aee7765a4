"""A run's log as text, bytes, lines or a DataFrame."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..models.frames import Frame, GapFrame, LogFrame

if TYPE_CHECKING:
    import pandas


MOST_LINES = 2000
MOST_BYTES = 1 << 20
"""What a display of a log shows at most: its end."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that the engine stored at ``at`` (seconds since the epoch); ``gap`` says why bytes are missing here."""

    at: float
    data: bytes
    gap: str = ""


@dataclass(slots=True)
class Log:
    """The log of one run. It is text of the job: untrusted; displays escape it."""

    run: str
    pieces: list[Piece] = field(default_factory=list)

    @classmethod
    def collect(cls, run: str, frames: Iterable[Frame]) -> Log:
        log = cls(run)
        for frame in frames:
            if isinstance(frame, LogFrame):
                log.pieces.append(Piece(frame.at, base64.b64decode(frame.data)))
            elif isinstance(frame, GapFrame):
                log.pieces.append(Piece(frame.at, b"", frame.reason))
        return log

    @property
    def raw(self) -> bytes:
        return b"".join(piece.data for piece in self.pieces)

    @property
    def text(self) -> str:
        return self.raw.decode("utf-8", "replace")

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def gaps(self) -> list[str]:
        return [piece.gap for piece in self.pieces if piece.gap]

    def tail(self, count: int) -> Log:
        """The last ``count`` lines."""
        kept: list[Piece] = []
        wanted = count + (not self.raw.endswith(b"\n"))
        for piece in reversed(self.pieces):
            missing = wanted - sum(part.data.count(b"\n") for part in kept)
            if missing <= 0:
                break
            kept.insert(0, piece)
        log = Log(self.run, kept)
        text = log.raw.splitlines(keepends=True)[-count:] if count else []
        return Log(self.run, [Piece(kept[-1].at, b"".join(text))] if kept else [])

    def frame(self) -> pandas.DataFrame:
        """One row a line: ``time`` (UTC, when its first byte was stored), ``job`` (0 for a single one), ``line``."""
        import pandas as pd

        times: list[float] = []
        pieces: list[bytes] = []
        begun = b""
        since = 0.0
        for piece in self.pieces:
            for part in piece.data.splitlines(keepends=True):
                since = since if begun else piece.at
                begun += part
                if begun.endswith((b"\n", b"\r")):
                    times.append(since)
                    pieces.append(begun.rstrip(b"\r\n"))
                    begun = b""
        if begun:
            times.append(since)
            pieces.append(begun)
        return pd.DataFrame(
            {
                "time": pd.to_datetime(times, unit="s", utc=True),
                "job": pd.array([0] * len(pieces), dtype="int64"),
                "line": [line.decode("utf-8", "replace") for line in pieces],
            }
        )

    def __str__(self) -> str:
        return self.text

    def __len__(self) -> int:
        return len(self.raw)

    def shown(self) -> tuple[str, str]:
        """(the last lines as text, a line that says what is not shown or ''): a display must not carry gigabytes."""
        end = self.raw[-MOST_BYTES:]
        lines = end.decode("utf-8", "replace").splitlines()[-MOST_LINES:]
        total = self.raw.count(b"\n") + (not self.raw.endswith(b"\n") and bool(self.raw))
        hidden = total - len(lines)
        return "\n".join(lines), f"… {hidden} earlier lines: .text and .lines have all" if hidden > 0 else ""

    def __repr__(self) -> str:
        from ..display.ansi import strip

        text, note = self.shown()
        return "\n".join(part for part in (note, strip(text), *self.gaps) if part)

    def _repr_html_(self) -> str:
        from ..display.ansi import to_html
        from ..display.html import log_block

        text, note = self.shown()
        return log_block(to_html(text), "; ".join(part for part in (note, *self.gaps) if part))
