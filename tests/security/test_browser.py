"""A log that means harm, in a real Chromium: no dialog, no request, no element but those of our own view."""

from __future__ import annotations

import base64
import http.server
import itertools
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dstack_jupyter.display.html import card, problems_html, table
from dstack_jupyter.display.logview import NotebookView
from dstack_jupyter.models.errors import Problem
from dstack_jupyter.models.frames import LogFrame
from dstack_jupyter.models.runs import RunView

pytestmark = pytest.mark.machines

BOOM = "document.title='BOOM'"
EVIL = [
    f"<script>{BOOM}</script>",
    f'<img src=/fetched onerror="{BOOM}">',
    "</pre></div><iframe src=/fetched></iframe>",
    f"\x1b]8;;javascript:{BOOM}\x07click\x1b]8;;\x07",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]0;BOOM\x07",
    "\x1b[2J\x1b[H\x1b[31m",
    f"<svg/onload={BOOM}>",
    f'\x1b[31m" onmouseover="{BOOM}',
    f'<a href="javascript:{BOOM}">x</a>',
    "<!--",
    "<style>@import '/fetched'",
    f"<details open ontoggle={BOOM}>",
    "<link rel=stylesheet href=/fetched>",
    "<meta http-equiv=refresh content='0;url=/fetched'>",
    "\x9b31m<base href=//evil/>",
    "&lt;script&gt;",
    f"\u2028<math><mtext></form><form><style></math><img src onerror={BOOM}>",
    "\x1b[38;2;1;2;3;url(/fetched)m",
    "<\x00script>",
    "\ud800<script src=/fetched></script>",
    "{{constructor.constructor('alert(1)')()}}",
    f"<button data-commandlinker-command='x' onclick={BOOM}>",
    "]]>",
    "<form action=/fetched><input autofocus onfocus=submit()>",
]


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium")
    if found is None:
        assert not os.environ.get("CI"), "CI must have a browser"
        pytest.skip("needs chromium: `make test-machines` installs it")
    return found


class Site(http.server.BaseHTTPRequestHandler):
    page = b""
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[tuple[type[Site], str]]:
    handler = type("Here", (Site,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


class Elements(HTMLParser):
    """Names and attributes of all elements inside #ours, of what the browser made of the page."""

    def __init__(self, dom: str) -> None:
        super().__init__()
        self.found: list[tuple[str, set[str]]] = []
        self.feed(dom[dom.index('<main id="ours">') : dom.index("</main>")])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name for name, _ in attrs}))


def shown(chromium: str, site: tuple[type[Site], str], inner: str, folder: Path) -> str:
    page = (
        '<!doctype html><meta charset=utf-8><link rel=icon href="data:,"><title>quiet</title>'
        f"<script>for (const n of ['alert','confirm','prompt','open','print']) window[n] = () => {{ {BOOM} }}</script>"
        f'<main id="ours">{inner}</main>'
        "<script>for (const e of document.querySelectorAll('#ours *'))"
        " { e.click(); e.dispatchEvent(new Event('mouseover')); }</script>"
    )
    handler, url = site
    handler.page = page.encode("utf-8", "replace")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}", "--virtual-time-budget=3000"]
    done = subprocess.run([*command, "--dump-dom", url], capture_output=True, timeout=90)
    return done.stdout.decode("utf-8", "replace")


def test_a_log_is_text(chromium: str, site: tuple[type[Site], str], tmp_path: Path) -> None:
    """F66 openvox-gui#26."""
    view = RunView(
        id="1", project="main", name="<img src=/fetched>", state="running", message=EVIL[1], user="<b>", submitted_at=0
    )
    notebook = NotebookView.__new__(NotebookView)
    NotebookView.__init__(notebook, view)
    data = "\n".join([*EVIL, "\x1b[31mred\x1b[0m", *(one + two for one, two in itertools.pairwise(EVIL))])
    notebook.feed(LogFrame(attempt="a", offset=0, at=0, data=base64.b64encode(data.encode("utf-8", "surrogatepass")).decode()))
    notebook.close()
    faults = problems_html(EVIL[0], [Problem(EVIL[1], key=EVIL[7], hint=EVIL[9])])
    inner = notebook._html() + card("x", table(EVIL, [EVIL])) + faults
    dom = shown(chromium, site, inner, tmp_path)
    assert "<title>quiet</title>" in dom, dom[:500]
    assert site[0].asked == ["/"]
    elements = Elements(dom).found
    assert {tag for tag, _ in elements} <= {"main", "div", "span", "pre", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert {name for _, attributes in elements for name in attributes} <= {"id", "style", "title"}
    assert re.search(r'<span style="color:\s*#e75c58[^"]*">red</span>', dom)  # and colours pass


def test_the_browser_would_have_been_caught(chromium: str, site: tuple[type[Site], str], tmp_path: Path) -> None:
    dom = shown(chromium, site, "".join(EVIL[:2]), tmp_path)
    assert "<title>BOOM</title>" in dom
    assert "/fetched" in site[0].asked
