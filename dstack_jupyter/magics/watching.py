"""Commands that only look: ps, status, and what stands below them about money."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import api
from ..client import connect, frames
from .frontend import Frontend, Report, Result

if TYPE_CHECKING:
    from ..models.instances import InstanceView
    from ..models.runs import RunView

RUN_COLUMNS = ("name", "state", "backend", "instance_type", "price", "cost", "submitted", "exit_code", "message")
"""``price`` and ``cost``: $/h now, $ so far."""


def ps(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    client = connect()
    views = [run.view for run in client.runs(args.project, all=args.all, last=args.last)]
    if not args.json:
        say_money(client.machines(args.project), frontend, _story(views) if args.verbose else ())
    return Result(frames.of_runs(views), columns=RUN_COLUMNS)


def say_money(machines: Sequence[InstanceView], frontend: Frontend, lines: Sequence[str] = ()) -> None:
    """Below a result: ``lines``, then what the machines cost now, what ends them and which are stuck."""
    from ..display import ansi
    from ..display.machines import below, lines_html, stuck_lines

    now = time.time()
    text = [*map(ansi.strip, lines), *below(machines, now)]
    frontend.below(text, lines_html(text, stuck_lines(machines, now)))


def _story(views: Sequence[RunView]) -> list[str]:
    """What each run has tried, which machines it has, and what does not get on."""
    lines = []
    for view in views:
        lines += [f"{view.name}: {line}" for line in view.tried]
        for each in view.machines:
            said = f", {each.message}" if each.message else ""
            lines.append(f"{view.name}: {each.identity} in {each.region or each.backend} is {each.state}{said}")
        lines += [f"{view.name}: {each.type}: {each.message}" for each in view.conditions]
    return lines


def status(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    """Everything at one look. Exit code 0 whatever there is to say."""
    from ..display.status import print_status, status_html, status_lines

    current = api.status(project=args.project)
    if frontend.holds_objects or args.json:
        return Result(Report(status_lines(current), current.data(), status_html(current)))
    print_status(current, sys.stdout)
    return Result(None, shown=True)
