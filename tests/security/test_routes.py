"""Every route of the real server × every method × every way of not being allowed: refused, silent, and without effect.

The table that is walked is the server's own: a new route is walked without anybody remembering to add it.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from dstack_jupyter_server import routes

from dstack_jupyter.client import Client, connect
from dstack_jupyter.models import endpoint
from dstack_jupyter.models.fleets_view import FleetRequest
from dstack_jupyter.models.home import Home
from tests.client.test_client import apply
from tests.conftest import wait_until
from tests.security.jupyter import ADA, BOB, MALLORY, Server, start

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
CLOSED = {302, 401, 403, 404}
TASK = {"type": "task", "name": "walker", "commands": ["true"]}
BODIES: dict[str, Any] = {
    "/runs": {"configuration": TASK, "request_key": "walker", "context": {"cwd": "/"}},
    "/runs/plan": {"configuration": TASK},
    "/fleets": {"configuration": {"type": "fleet", "name": "walker", "ssh_config": {"hosts": ["127.0.0.1"], "user": "u"}}},
}
"""Bodies that would do something, were they let through."""


@dataclass
class Site:
    server: Server
    client: Client
    home: Home

    def facts(self) -> Any:
        """What a side effect would change: all that the store holds and tells."""
        runs = {run.name: (run.view.state, run.view.message) for run in self.client.runs(all=True)}
        events = [(each.seq, each.kind, each.action) for each in self.client.events(limit=1000) if each.actor != "engine"]
        fleets = [(fleet.name, fleet.state, [host.hostname for host in fleet.hosts]) for fleet in self.client.fleets()]
        return runs, events, fleets, sorted(path.name for path in self.home.code.iterdir())

    def paths(self) -> list[tuple[str, str]]:
        """(path, the part after the API's root) of each route that serves us."""
        found = []
        for pattern, module, _ in self.server.table:
            if "dstack_jupyter" not in pattern and "dstack_jupyter" not in module:
                continue
            path = pattern.removesuffix("$").removeprefix("^").replace(routes.REF, "xx").replace(r"\-", "-")
            if path.endswith("(.*)"):
                path = path.replace("(.*)", "index.html")
            assert re.fullmatch(pattern.removesuffix("$"), path), f"{pattern}: teach this test to make a path of it"
            found.append((path, path.partition(routes.API)[2]))
        return found

    def refused(self, case: str, allowed: set[int], methods: tuple[str, ...] = METHODS, **headers: str) -> int:
        """Walk all routes and methods; returns how many were asked."""
        count = 0
        for path, short in self.paths():
            for method in methods:
                body = BODIES.get(short, {}) if method in ("POST", "PUT", "PATCH", "DELETE") else None
                status, answered, text = self.server.ask(method, path, body, **headers)
                where = (case, method, path, status, text[:200])
                if method == "OPTIONS" and status in (200, 204):
                    assert not text, where  # what a browser asks before it asks; it tells nothing
                elif method in ("GET", "HEAD", "POST", "DELETE"):
                    assert status in allowed, where
                else:
                    assert status in allowed | {405}, where
                assert b"installation" not in text, where
                assert b"sleeper" not in text, where
                # To a request with a token, which no foreign page has, Jupyter itself opens CORS.
                assert "access-control-allow-origin" not in answered or headers.get("Authorization"), where
                count += 1
        return count


@pytest.fixture
def site(home: Home) -> Iterator[Site]:
    server = start(home)
    try:
        wait_until(lambda: endpoint.read(home) is not None, what="the server's engine")
        client = connect(home)
        wanted = {"type": "fleet", "name": "xx", "ssh_config": {"hosts": ["127.0.0.9"], "user": "u"}}
        client.apply_fleet(FleetRequest(configuration=wanted))
        run = apply(client, "echo sleeper; sleep 600", name="xx")
        wait_until(lambda: run.refresh().state == "running")
        yield Site(server, client, home)
        run.stop(abort=True).wait(20)
        client.delete_fleet("xx")
    finally:
        server.stop()


def cookie_of(server: Server) -> str:
    """A session as a browser has it after a login."""
    status, headers, _ = server.ask("GET", f"/api/contents?token={ADA}")
    assert status == 200
    found = [part.split(";")[0] for part in headers.get("set-cookie", "").split(", ") if part.startswith("username-")]
    assert found, headers
    return found[0]


def test_no_route_lets_anybody_in_who_may_not(site: Site) -> None:
    paths = site.paths()
    assert {short for _, short in paths} >= {path.replace(routes.REF, "xx") for path, _, _ in routes.ROUTES}
    before = site.facts()
    ada, cookie = f"token {ADA}", cookie_of(site.server)
    writes = ("POST", "PUT", "PATCH", "DELETE")
    count = site.refused("nobody", CLOSED)
    count += site.refused("a wrong token", CLOSED, Authorization="token nonsense")
    count += site.refused("a forged cookie", CLOSED, Cookie=cookie[: cookie.index("=") + 1] + "2|1:0|forged")
    count += site.refused("a cookie without XSRF", {403}, writes, Cookie=cookie)
    count += site.refused("a cookie, a wrong XSRF", {403}, writes, Cookie=f"{cookie}; _xsrf=a", X_XSRFToken="b")
    count += site.refused("a cookie from a foreign page", CLOSED, Cookie=cookie, Origin="https://evil.example")
    count += site.refused("a cookie from a foreign form", {403}, writes, Cookie=cookie, Referer="https://evil.example/x")
    count += site.refused("nobody from a foreign page", CLOSED, Origin="https://evil.example")
    count += site.refused("a name that leads here", {403}, Host="evil.example", Authorization=ada)
    count += site.refused("a user whom the authorizer denies", {403, 405}, Authorization=f"token {MALLORY}")
    for path, methods, _ in routes.ROUTES:
        for method in methods:
            where = routes.API + path.replace(routes.REF, "xx")
            body = BODIES.get(path, {}) if method != "GET" else None
            assert site.server.ask(method, where, body, Authorization=f"token {MALLORY}")[0] == 403, (method, path)
    print(f"{count} requests refused over {len(paths)} routes")
    assert count >= len(paths) * (6 * len(METHODS) + 3 * len(writes))
    assert site.facts() == before

    # The same requests are let through for who may: the walk above was not refused for another reason.
    opened = 0
    for path, short in paths:
        methods = next((methods for each, methods, _ in routes.ROUTES if each.replace(routes.REF, "xx") == short), ())
        if "GET" in methods:
            status, headers, _ = site.server.ask("GET", path, Authorization=ada)
            assert status in (200, 404), (path, status)
            assert headers["x-content-type-options"] == "nosniff", path
            assert "default-src 'none'" in headers["content-security-policy"], path
            assert not headers["content-type"].startswith(("text/html", "image/svg", "text/xml")), (path, headers)
            opened += status == 200
    assert opened >= 11
    assert site.facts() == before  # a GET changes nothing
    assert site.server.ask("GET", "/dstack_jupyter/api/v1/info", Cookie=cookie)[0] == 200
    status, _, _ = site.server.ask("POST", "/dstack_jupyter/api/v1/runs/plan", BODIES["/runs/plan"], Authorization=ada)
    assert status == 200

    # Who may not run code here names no file of this account, and learns nothing of which there are.
    told = set()
    for key in (os.devnull, "/etc/shadow", "/no/such/file", "../../etc/passwd", "~/.ssh/id_ed25519"):
        ssh = {"hosts": ["127.0.0.9"], "user": "u", "identity_file": key}
        request = {"configuration": {"type": "fleet", "name": "bobs", "ssh_config": ssh}, "base": "/"}
        path = "/dstack_jupyter/api/v1/fleets"
        status, _, text = site.server.ask("POST", path, request, Authorization=f"token {BOB}")
        assert status == 403, text
        told.add(text.decode().replace(key, "").partition("request_id")[0])
        assert site.server.ask("POST", path, {**request, "configuration": {}}, Authorization=f"token {BOB}")[0] == 400
    assert len(told) == 1 and "keys/hosts" in told.pop()
    assert site.facts() == before
    request["configuration"]["ssh_config"]["identity_file"] = "lab"
    assert site.server.ask("POST", path, request, Authorization=f"token {BOB}")[0] == 201
    request["configuration"]["ssh_config"]["identity_file"] = os.devnull
    assert site.server.ask("POST", path, request, Authorization=ada)[0] == 201
    site.client.delete_fleet("bobs")

    log = site.server.log.read_text()
    # Of ours none; jupyter-lsp, which JupyterLab may bring, has one.
    assert not [line for line in log.splitlines() if " registered for " in line and ("dstack" in line or "Forward" in line)]


def test_who_may_read_runs_does_not_read_what_else_there_is() -> None:
    """The authorizer is asked for each route's own resource."""
    asked = {(path.replace(routes.REF, "xx"), resource) for path, _, resource in routes.ROUTES}
    assert all(resource.startswith("dstack_jupyter:") for _, resource in asked)
    for path, resource in asked:
        assert resource.split(":")[1] in ("engine", path.split("/")[1]), (path, resource)


STRANGER = """
import json, os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(10)
try:
    connection.connect(sys.argv[1])
except PermissionError:
    print("refused by the file system"); sys.exit()
connection.sendall(sys.argv[2].encode() + b" HTTP/1.0\\r\\nContent-Length: 0\\r\\n\\r\\n")
data = b""
while piece := connection.recv(65536):
    data += piece
print(data.decode())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_another_user_is_refused_by_the_file_system_and_by_the_kernel_s_word(home: Home) -> None:
    from dstack_jupyter.engine.api import routes

    pid = connect(home).info().pid
    found = endpoint.read(home)
    assert found is not None

    def stranger(line: str) -> str:
        return subprocess.run([sys.executable, "-c", STRANGER, found.socket, line], capture_output=True, text=True).stdout

    folder, mode = os.path.dirname(found.socket), 0o700
    line = "GET /dstack_jupyter/api/v1/info"
    assert os.stat(folder).st_mode & 0o777 == mode
    assert "refused by the file system" in stranger(line)
    try:
        # Somebody opened folder and socket to all: the kernel still says who is calling.
        os.chmod(folder, 0o711)
        os.chmod(found.socket, 0o666)
        for pattern, handler in routes.ROUTES:
            path = pattern.replace(routes.REF, "x").replace("([0-9a-f]{64})", "0" * 64)
            for method in METHODS:
                implemented = getattr(handler, method.lower()) is not routes.web.RequestHandler._unimplemented_method
                answer = stranger(f"{method} /dstack_jupyter/api/v1{path}") if implemented else ""
                assert not implemented or " 403 " in answer.splitlines()[0], (method, path, answer)
        assert " 403 " in stranger("GET /nowhere").splitlines()[0]
        assert connect(home).info().pid == pid  # nobody handed over
    finally:
        os.chmod(found.socket, 0o600)
        os.chmod(folder, mode)


EVIL = [
    "..",
    "%2e%2e",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%00",
    "%0d%0aX-Evil:%201",
    "a" * 200,
    "%ff%fe",
    "x%3fproject=other",
    ";",
    "\\",
]


def said(where: str, request: bytes) -> bytes:
    """What the engine's socket answers to bytes that no client of ours would send."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(where)
        connection.sendall(request)
        found = b""
        while piece := connection.recv(1 << 16):
            found += piece
    return found


def test_paths_that_mean_harm_mean_nothing(home: Home) -> None:
    client = connect(home)
    run = apply(client, "echo mine > result", name="mine").wait(20)
    secret = home.root.parent / "outside"
    secret.write_text("canary-outside")
    where = client.socket()
    for evil in EVIL:
        for path in (f"/runs/{evil}", f"/runs/{evil}/logs/raw", f"/fleets/{evil}", f"/code/{evil}", f"/{evil}/info"):
            raw = said(where, f"GET /dstack_jupyter/api/v1{path} HTTP/1.0\r\n\r\n".encode())
            first = raw.split(b"\r\n", 1)[0]
            assert re.search(rb" 4\d\d ", first), (path, first)
            assert b"X-Evil" not in raw.split(b"\r\n\r\n")[0]
    for evil in ("../../../../outside", "/etc/passwd", "../../env.sh", "result/../../..", str(secret)):
        with pytest.raises(Exception, match=r"outside the job|left no"):
            client.open(f"/runs/{run.id}/files", path=evil)
    assert client.info().pid
