"""Text of a job made safe to show: only colours pass, everything else that a terminal would obey is dropped.

The output of one's own cell is trusted by JupyterLab, so nothing of a job may reach it unescaped.
"""

from __future__ import annotations

import html
import re

LONGEST_LINE = 4000
"""Characters of one line that are shown; the log itself keeps them all."""

# Every control sequence of ECMA-48, strings (OSC, DCS, SOS, PM, APC) with their content, and stray control characters.
CONTROL = re.compile(
    r"\x1b\[(?P<args>[0-9;:]*)(?P<final>m)"
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"
    r"|[\x9d\x90\x98\x9e\x9f][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c|$)"
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[ -/]*[0-~]?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
    r"|[\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]"
)

COLOURS = ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
HEX = {
    "black": "#3e424d", "red": "#e75c58", "green": "#00a250", "yellow": "#b5891a",
    "blue": "#208ffb", "magenta": "#d160c4", "cyan": "#4c9f9f", "white": "#a1a6b2",
}  # fmt: skip


def strip(text: str) -> str:
    """``text`` without any control sequence, lines as a terminal would have left them."""
    return CONTROL.sub("", settle(text))


def settle(text: str) -> str:
    """Carriage returns done as a terminal would: a progress bar that redraws its line leaves its last state."""
    if "\r" not in text:
        return text
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(_last_state(line) for line in lines)


def _last_state(line: str) -> str:
    parts = [part for part in line.split("\r") if part]
    return parts[-1] if parts else ""


def to_html(text: str) -> str:
    """``text`` as HTML for a <pre>: escaped, with <span style> for colours and nothing else. Well-formed on its own."""
    return "\n".join(_line(line) for line in settle(text).split("\n"))


def _line(line: str) -> str:
    if len(line) > LONGEST_LINE:
        line = line[:LONGEST_LINE] + f" … {len(line) - LONGEST_LINE} more characters"
    lines: list[str] = []
    style: dict[str, str] = {}
    position = 0
    for match in CONTROL.finditer(line):
        lines.append(_span(line[position : match.start()], style))
        if match["final"]:
            _apply(match["args"], style)
        position = match.end()
    lines.append(_span(line[position:], style))
    return "".join(lines)


def _span(text: str, style: dict[str, str]) -> str:
    if not text:
        return ""
    escaped = html.escape(text)
    if not style:
        return escaped
    return f'<span style="{";".join(f"{key}:{value}" for key, value in style.items())}">{escaped}</span>'


def _apply(args: str, style: dict[str, str]) -> None:
    """Select Graphic Rendition: the parameters that a log uses; what is not known changes nothing."""
    codes = [int(code) if code.isdigit() and len(code) < 4 else 0 for code in re.split("[;:]", args)]
    while codes:
        code = codes.pop(0)
        if code == 0:
            style.clear()
        elif code == 1:
            style["font-weight"] = "bold"
        elif code == 3:
            style["font-style"] = "italic"
        elif code == 4:
            style["text-decoration"] = "underline"
        elif code == 22:
            style.pop("font-weight", None)
        elif 30 <= code <= 37 or 90 <= code <= 97:
            style["color"] = HEX[COLOURS[code % 10]]
        elif 40 <= code <= 47 or 100 <= code <= 107:
            style["background"] = HEX[COLOURS[code % 10]]
        elif code in (38, 48):
            colour = _extended(codes)
            if colour:
                style["color" if code == 38 else "background"] = colour
        elif code == 39:
            style.pop("color", None)
        elif code == 49:
            style.pop("background", None)


def _extended(codes: list[int]) -> str:
    """The colour of ``38;5;n`` or ``38;2;r;g;b``; takes its parameters from ``codes``."""
    kind = codes.pop(0) if codes else 0
    if kind == 2 and len(codes) >= 3:
        red, green, blue = (min(codes.pop(0), 255) for _ in range(3))
        return f"#{red:02x}{green:02x}{blue:02x}"
    if kind == 5 and codes:
        number = min(codes.pop(0), 255)
        if number < 16:
            return HEX[COLOURS[number % 8]]
        if number >= 232:
            grey = 8 + (number - 232) * 10
            return f"#{grey:02x}{grey:02x}{grey:02x}"
        number -= 16
        level = (0, 95, 135, 175, 215, 255)
        return f"#{level[number // 36]:02x}{level[number // 6 % 6]:02x}{level[number % 6]:02x}"
    return ""
