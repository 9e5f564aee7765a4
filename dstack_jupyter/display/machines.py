"""Rented machines and what they cost, as lines and tables. Pure functions; ``now`` is Unix time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..models.durations import format_duration
from ..models.instances import InstanceView
from ..models.money import format_dollars
from ..models.status import rate, urgent
from . import ansi, html
from .words import price

COLUMNS = ("machine", "runs", "where", "state", "since", "price", "cost")
"""Of a table of machines: what a terminal of 100 columns has room for. What is wrong stands in place of the state."""
MOST_TRIED = 5
"""Tries that a view of a run shows; more are counted."""


def total_line(machines: Sequence[InstanceView]) -> str:
    """``3 machines cost $4.20/h now``."""
    billed = [each for each in machines if each.billed]
    dollars, unknown = rate(machines)
    coming = sum(each.rented_at is None for each in machines)
    asked = f"; {coming} more {'is' if coming == 1 else 'are'} asked for" if coming else ""
    if not billed:
        return f"no rented machine costs anything now{asked}"
    count = f"{len(billed)} machine{'s' if len(billed) > 1 else ''}"
    if unknown == len(billed):
        return f"{count} cost{'s' if unknown == 1 else ''} $?/h now: no price is known{asked}"
    more = f" and $?/h for {unknown} of them" if unknown else ""
    return f"{count} cost{'s' if len(billed) == 1 else ''} {format_dollars(dollars)}/h now{more}{asked}"


def guard_lines(machines: Sequence[InstanceView]) -> list[str]:
    """Which guard ends them, once for those that have the same."""
    texts = Counter(each.guard.text for each in machines)
    if len(texts) == 1:
        return [f"guard: {text}" for text in texts]
    return [f"guard of {', '.join(_names(machines, text))}: {text}" for text in texts]


def _names(machines: Sequence[InstanceView], guard: str) -> list[str]:
    guarded = [", ".join(each.runs) or each.identity for each in machines if each.guard.text == guard]
    return list(dict.fromkeys(guarded))


def stuck_lines(machines: Sequence[InstanceView], now: float) -> list[str]:
    """What costs money for nothing: since when, and what to do."""
    return [stuck_line(each, now) for each in urgent(machines) if each.stuck]


def stuck_line(machine: InstanceView, now: float) -> str:
    since = f" for {format_duration(now - machine.stuck_since)}" if machine.stuck_since is not None else ""
    what = f"{machine.backend} {machine.instance_type}, {'$?/h' if machine.price is None else price(machine.price)}"
    said = f" ({ansi.strip(machine.message)})" if machine.message else ""
    return f"{machine.identity} ({what}): {machine.stuck}{since}{said}; {remedy(machine)}"


def message_lines(machines: Sequence[InstanceView]) -> list[str]:
    """What those do or lack at the moment that are not stuck."""
    return [f"{each.identity}: {ansi.strip(each.message)}" for each in urgent(machines) if each.message and not each.stuck]


def remedy(machine: InstanceView) -> str:
    """What is done about a stuck machine, and what a person can do."""
    where = machine.console or f"the console of {machine.backend}"
    if machine.rented_at is None:
        return f"the engine goes on looking for it; see whether {where} shows this name"
    return f"the engine goes on asking {machine.backend} to delete it; you can delete it at {where}"


def row(machine: InstanceView, now: float) -> dict[str, Any]:
    """A machine as a row of ``COLUMNS``, and its backend."""
    since = machine.stuck_since or machine.rented_at
    return {
        "machine": machine.identity,
        "runs": ", ".join(machine.runs),
        "backend": machine.backend,
        "where": " ".join(filter(None, (machine.backend, machine.region, machine.instance_type, "spot" * machine.spot))),
        "state": machine.stuck or str(machine.state),
        "since": format_duration(now - since) if since is not None else "",
        "price": machine.price,
        "cost": machine.cost,
    }


def tried_lines(tried: Sequence[str]) -> list[str]:
    """The last tries of a run that looks for a machine."""
    hidden = len(tried) - MOST_TRIED
    return [f"… {hidden} earlier tries"] * (hidden > 0) + list(tried[-MOST_TRIED:])


def below(machines: Sequence[InstanceView], now: float) -> list[str]:
    """What stands below a list of runs: what all machines cost now, which guard ends them, which are stuck. [] without any."""
    if not machines:
        return []
    return [total_line(machines), *guard_lines(machines), *stuck_lines(machines, now)]


def lines_html(lines: Sequence[str], alarms: Sequence[str] = ()) -> str:
    """Lines as HTML, those of ``alarms`` in the colour of errors."""
    colour = html.COLOURS["failed"]
    styles = [f"color:{colour}" if line in alarms else html.MUTED for line in lines]
    return "".join(
        f'<div style="{html.FONT};{style}">{html.escape(line)}</div>' for line, style in zip(lines, styles, strict=True)
    )
