"""Small pieces of HTML in JupyterLab's own colours: a run's header, tables, reports. Pure functions; everything is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from ..models.errors import Problem

FONT = "font-family:var(--jp-ui-font-family,sans-serif);font-size:var(--jp-ui-font-size1,13px)"
MUTED = "color:var(--jp-ui-font-color2,#757575)"
BORDER = "border:1px solid var(--jp-border-color2,#e0e0e0);border-radius:4px"
COLOURS = {
    "done": "var(--jp-success-color1,#388e3c)",
    "failed": "var(--jp-error-color1,#d32f2f)",
    "running": "var(--jp-info-color1,#1976d2)",
    "terminated": "var(--jp-ui-font-color2,#757575)",
}
ALARMS = frozenset({"off", "off, still billed", "does not end", "not known whether it was made"})
"""Words of a cell that somebody should look at."""
WAITING = "var(--jp-warn-color1,#f57c00)"


def escape(value: object) -> str:
    """Text for an element or a quoted attribute."""
    return html.escape(str(value))


def badge(state: str) -> str:
    colour = COLOURS.get(state, WAITING)
    return f'<b style="color:{colour}">● {escape(state)}</b>'


def card(header: str, body: str) -> str:
    """A bordered box with a header line; both arguments are HTML."""
    return f'<div style="{FONT};{BORDER};padding:6px 10px;margin:2px 0"><div>{header}</div>{body}</div>'


def log_block(lines_html: str, note: str = "") -> str:
    """The tail of a log; ``lines_html`` is HTML of ``ansi.to_html``."""
    above = f'<div style="{MUTED}">{escape(note)}</div>' if note else ""
    # Reversed columns keep the scroll bar at the end while lines arrive; Lab's own style would let <pre> shrink and scroll.
    return (
        f'{above}<div style="margin:4px 0 0 0;max-height:28em;overflow:auto;display:flex;flex-direction:column-reverse">'
        f'<pre style="margin:0;flex:none;overflow:visible;font-family:var(--jp-code-font-family,monospace);'
        f'font-size:var(--jp-code-font-size,13px);white-space:pre-wrap;overflow-wrap:anywhere">{lines_html}</pre></div>'
    )


def problems_html(place: str, problems: Sequence[Problem]) -> str:
    """A table of faults: where, key, what is wrong, what would be right."""
    rows = [(f"{each.line}:{each.column}" if each.line else "", each.key, each.message, each.hint) for each in problems]
    count = f"{len(rows)} fault{'s' if len(rows) > 1 else ''}"
    return card(f"{badge('failed')} <b>{escape(place)}</b>: {count}", table(("line", "key", "fault", "hint"), rows))


def _alarm(cell: object) -> str:
    return f";font-weight:bold;color:{COLOURS['failed']}" if cell in ALARMS else ""


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f'<th style="text-align:left;padding:2px 10px 2px 0">{escape(name)}</th>' for name in columns)
    body = "".join(
        "<tr>"
        + "".join(f'<td style="text-align:left;padding:2px 10px 2px 0{_alarm(cell)}">{escape(cell)}</td>' for cell in row)
        + "</tr>"
        for row in rows
    )
    return f'<table style="{FONT};border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
