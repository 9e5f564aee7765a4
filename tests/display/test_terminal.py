"""Tables for a shell: in a pipe, in a real terminal of some width, with hostile names."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import termios

import pandas as pd
import pytest

from dstack_jupyter.display.terminal import print_table

ROWS = [
    {"name": "train", "state": "running", "price": 1.5, "message": "", "exit_code": None, "submitted": pd.NaT},
    {"name": "evil [red]\x1b[2J", "state": "failed", "price": 0.0, "message": "x" * 200, "exit_code": 7, "submitted": pd.NaT},
]
COLUMNS = ["name", "state", "price", "message", "exit_code", "submitted"]


def in_terminal(width: int) -> str:
    """What a terminal of ``width`` columns is sent."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    with os.fdopen(slave, "w") as file:
        print_table(COLUMNS, ROWS, file)
        file.flush()
        found = os.read(master, 1 << 16)
    os.close(master)
    return found.decode()


def test_in_a_pipe_a_row_is_a_line_that_nothing_cuts_or_colours() -> None:
    out = io.StringIO()
    print_table(COLUMNS, ROWS, out)
    head, first, second = out.getvalue().splitlines()
    assert head.split() == ["name", "state", "price", "message", "exit_code"]  # what no row knows has no column
    assert first.split() == ["train", "running", "$1.50"]
    assert "x" * 200 in second
    assert "\x1b" not in out.getvalue()
    assert "[red]" in second


def test_a_terminal_has_colours_and_its_width_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    found = in_terminal(60)
    assert "\x1b[" in found
    assert "\x1b[2J" not in found
    lines = re.sub(r"\x1b\[[0-9;]*m", "", found).splitlines()
    assert max(map(len, lines)) <= 60
    assert "".join(line for line in lines).count("x") == 200 + 1  # folded, not cut; one in exit_code


def test_nothing_is_said_to_be_nothing() -> None:
    out = io.StringIO()
    print_table(COLUMNS, [], out)
    assert out.getvalue() == "nothing to show\n"
