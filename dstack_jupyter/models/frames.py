"""The frames of a run's stream: bytes of its log, gaps, changes of the run, the end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .base import WireModel
from .runs import RunView


class LogFrame(WireModel):
    """Bytes [offset, offset + len) of an attempt's log; ``data`` is base64; ``at`` when the engine stored them."""

    type: Literal["log"] = "log"
    attempt: str
    offset: int
    at: float
    data: str


class GapFrame(WireModel):
    """Bytes [offset, end) of an attempt's log are gone, and ``reason`` says why."""

    type: Literal["gap"] = "gap"
    attempt: str
    offset: int
    end: int
    at: float
    reason: str


class RunFrame(WireModel):
    type: Literal["run"] = "run"
    run: RunView


class EndFrame(WireModel):
    """Always the last frame: the run has ended and every byte of its log was sent; or the stream was asked not to follow."""

    type: Literal["end"] = "end"
    run: RunView


class PingFrame(WireModel):
    """Sent when nothing else was for 15 s, so that a dead link is noticed."""

    type: Literal["ping"] = "ping"


Frame = Annotated[LogFrame | GapFrame | RunFrame | EndFrame | PingFrame, Field(discriminator="type")]
