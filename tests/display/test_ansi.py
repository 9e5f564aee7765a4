"""Whatever a job prints is shown as text: never obeyed by a browser or a terminal."""

from __future__ import annotations

import io
import re
from xml.dom.minidom import parseString

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_jupyter.display.ansi import CONTROL, settle, strip, to_html
from dstack_jupyter.display.logview import TAIL, Tail, TerminalView, _for_terminal
from dstack_jupyter.display.words import size
from dstack_jupyter.models.durations import format_duration
from dstack_jupyter.models.frames import EndFrame, LogFrame
from dstack_jupyter.models.money import format_dollars
from dstack_jupyter.models.runs import RunView

EVIL = ["\x1b", "\x1b[31m", "\x1b]8;;javascript:alert(1)\x07", "\x1b]52;c;x\x07", "\x9b", "<script>", "\r", "&"]
NASTY = st.lists(st.one_of(st.characters(), st.sampled_from(EVIL)), max_size=60).map("".join)


@settings(max_examples=300, deadline=None)
@given(NASTY)
def test_any_text_becomes_well_formed_html_with_spans_only(text: str) -> None:
    found = to_html(text)
    document = parseString(f"<pre>{found}</pre>")
    tags = {node.tagName for node in document.getElementsByTagName("*")}
    assert tags <= {"pre", "span"}
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", found)
    for span in document.getElementsByTagName("span"):
        assert set(span.attributes.keys()) == {"style"}
        assert re.fullmatch(r"[a-z#0-9:;-]*", span.getAttribute("style"))


@settings(max_examples=300, deadline=None)
@given(NASTY)
def test_stripped_text_has_no_control_characters(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", strip(text))


@settings(max_examples=300, deadline=None)
@given(NASTY)
def test_a_terminal_gets_colours_and_carriage_returns_only(text: str) -> None:
    left = re.sub(r"\x1b\[[0-9;:]*m|\r", "", _for_terminal(text))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", left)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred\x1b[0m plain", '<span style="color:#e75c58">red</span> plain'),
        ("\x1b[1;32mok", '<span style="font-weight:bold;color:#00a250">ok</span>'),
        ("\x1b[38;2;1;2;300mx", '<span style="color:#0102ff">x</span>'),
        ("\x1b[38;5;196mx", '<span style="color:#ff0000">x</span>'),
        ("a\x1b]0;title\x07b", "ab"),
        ("\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b[2J\x1b[Hx", "x"),
        ("10%\r50%\r100%", "100%"),
        ("a\r\nb", "a\nb"),
        ("<b>&", "&lt;b&gt;&amp;"),
    ],
)
def test_what_becomes_of(text: str, expected: str) -> None:
    assert to_html(text) == expected


def test_a_long_line_is_cut_and_says_so() -> None:
    assert "6000 more characters" in to_html("x" * 10_000)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=2000), st.lists(st.integers(1, 50), max_size=40))
def test_a_tail_is_the_same_however_the_bytes_were_cut(data: bytes, cuts: list[int]) -> None:
    whole, pieces = Tail(), Tail()
    whole.add(data)
    rest = data
    for cut in cuts:
        pieces.add(rest[:cut])
        rest = rest[cut:]
    pieces.add(rest)
    assert (pieces.lines(), pieces.hidden) == (whole.lines(), whole.hidden)


def test_a_tail_keeps_the_last_lines_and_counts_the_others() -> None:
    tail = Tail()
    tail.add(b"".join(b"%d\n" % number for number in range(1000)))
    assert tail.lines() == [str(number) for number in range(1000 - TAIL, 1000)]
    assert tail.hidden == 1000 - TAIL


def test_a_terminal_view_writes_the_log_once_and_states_aside() -> None:
    out, err = io.StringIO(), io.StringIO()
    view = RunView(id="1", project="main", name="train", state="running", submitted_at=0)
    terminal = TerminalView(view, out, err)
    terminal.feed(LogFrame(attempt="a", offset=0, at=0, data="aGkK"))
    terminal.feed(EndFrame(run=view.model_copy(update={"state": "done"})))
    terminal.close()
    assert out.getvalue() == "hi\n"
    assert err.getvalue() == "train: running\ntrain: done\n"


def test_words() -> None:
    assert [format_duration(s) for s in (-1, 0, 59, 61, 3700)] == ["0 s", "0 s", "59 s", "1 min 1 s", "1 h 1 min"]
    assert [format_duration(s * 3600) for s in (24, 47, 48, 50)] == ["24 h", "47 h", "2 days", "2 days 2 h"]
    assert [format_duration(s, rough=True) for s in (-1, 90.4, 130, 3599.7)] == ["0 s", "90 s", "2 min", "60 min"]
    assert [format_dollars(m) for m in (0, 0.004, 1.5, 1234.567)] == ["$0", "$0.0040", "$1.50", "$1,234.57"]
    assert [format_dollars(m, 4) for m in (2.5, 2.4999, 0.004, None, float("nan"))] == ["$2.50", "$2.4999", "$0.004", "?", "?"]
    assert [size(c) for c in (3, 2048, 5 << 30)] == ["3 bytes", "2 KiB", "5.0 GiB"]
    assert settle("a") == "a"
    assert CONTROL.search("plain") is None
