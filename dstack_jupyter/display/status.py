"""One screen on everything: the engine, backends in trouble, what is rented and what it costs, what does not get on."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any, TextIO

from ..models.durations import format_duration
from ..models.status import Status, urgent
from . import ansi, html, machines
from .terminal import cell, print_table


def print_status(status: Status, file: TextIO) -> None:
    """As text; a terminal gets colours and its own width."""
    for line in _engine(status):
        print(line, file=file)
    for line in _backends(status) or ["none in trouble"]:
        print(f"backends: {line}", file=file)
    print(_total(status), file=file)
    if status.machines:
        print_table(machines.COLUMNS, _rows(status), file)
    for line in _below(status):
        print(line, file=file)


def status_lines(status: Status) -> list[str]:
    out = io.StringIO()
    print_status(status, out)
    return out.getvalue().splitlines()


def status_html(status: Status) -> str:
    alarms = [*_stuck(status), *_backends(status), *_conditions(status)]
    head = machines.lines_html([*_engine(status), *_backends(status), _total(status)], alarms)
    rows = [[cell(name, row[name], unknown="?") for name in machines.COLUMNS] for row in _rows(status)]
    shown = html.table(machines.COLUMNS, rows) if rows else ""
    return html.card(head, shown + machines.lines_html(_below(status), alarms))


def _below(status: Status) -> list[str]:
    said = machines.message_lines(status.machines)
    return [*_stuck(status), *said, *machines.guard_lines(status.machines), *_conditions(status)]


def _engine(status: Status) -> list[str]:
    info = status.engine
    host = "a Jupyter server" if info.host == "server" else "a process of its own"
    states = Counter(str(run.state) for run in status.runs)
    active = ", ".join(f"{count} {state}" for state, count in states.items()) or "none active"
    up = f"engine: {host} (pid {info.pid}), up for {format_duration(status.now - info.started_at)}"
    return [up, *(f"problem: {each}" for each in info.problems), f"runs: {active}"]


def _backends(status: Status) -> list[str]:
    lines = []
    for each in status.backends:
        hint = f" ({each.hint})" if each.hint else ""
        lines.append(ansi.strip(f"{each.backend}: {each.last_error or each.message or each.status}{hint}"))
    return lines


def _total(status: Status) -> str:
    states = ", ".join(f"{count} {state}" for state, count in status.states().items())
    return f"rented: {machines.total_line(status.machines)}" + (f" ({states})" if states else "")


def _rows(status: Status) -> list[dict[str, Any]]:
    return [machines.row(each, status.now) for each in urgent(status.machines)]


def _stuck(status: Status) -> list[str]:
    return machines.stuck_lines(status.machines, status.now)


def _conditions(status: Status) -> list[str]:
    return [
        ansi.strip(f"run {run.name}: {each.type} for {format_duration(status.now - each.since)}: {each.message}")
        for run in status.runs
        for each in run.conditions
    ]
