"""A text that nobody else would write in every place that holds a secret; a whole day's work with all its mishaps, at DEBUG.

Then everything that is left behind or was shown is searched. Allowed: config.yml, the key file's own store (sealed), the job's
own environment where the user sent the value on purpose.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import nbformat
import pytest
from nbclient import NotebookClient

from dstack_jupyter.client import connect
from dstack_jupyter.machines.local import MARK
from dstack_jupyter.models import endpoint
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.runs import ApplyRequest, Context
from tests.conftest import wait_until
from tests.security.jupyter import ADA, start

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "tests/backends/samples/config.yml"
ENV, REGISTRY, TYPED = "canary-env-41277", "canary-password-41278", "canary-typed-41279"

JOB_ENV = r"/jobs/[0-9a-f]+/env\.sh$"
"""Where a job's environment goes, 0600 in its own folder."""

CELLS = [
    "%load_ext dstack_jupyter",
    "%dstack ps",
    # As a .env file is loaded: after the engine was started, which must not inherit it.
    "import os\nos.environ.update(TOKEN=open('token').read(), REGISTRY=open('registry').read())",
    "%%dstack apply -y -n good\ntype: task\nenv: [TOKEN]\ncommands: ['test -n \"$TOKEN\" && echo there']",
    "%%dstack apply -y -n bad\ntype: task\nenv: [TOKEN]\ncommands: ['exit 3']",
    "%%dstack apply -y\ntype: task\nenv: [TOKEN]\ncommands: ['true']\nresouces: 1",
    "%%dstack apply -y\ntype: task\nimage: i\nregistry_auth: {username: u, password: '${{ env.REGISTRY }}'}\n"
    "commands: ['true']\nvolumes: ['name:/x']",
    "%%dstack apply -y -n pulled\ntype: task\nimage: i\nregistry_auth: {username: u, password: '${{ env.REGISTRY }}'}\n"
    "commands: ['true']",
    "%dstack logs good\n",
    "run = %dstack attach good\nrun",
    "%dstack pull good nothing",
    "%dstack backends",
    "%dstack backends check aws",
    "%dstack offers",
    "%dstack check ~/.dstack/server/config.yml",
    "%dstack check broken.yml",
    "%dstack events",
    "%dstack doctor",
    "%dstack ps -a",
    "%dstack doctor --rotate-key",
    "from dstack_jupyter.backends.config.configured import configured\nconfigured().current()",
    "repr(configured().current().backends), configured().current().backends",
    "import json\njson.dumps(configured().current().backends, default=str)",
    "import pickle\npickle.dumps(configured().current().backends)",
    "next(iter(configured().current().backends['first'].values())).nothing",
    "import copy\nstr(copy.deepcopy(configured().current().backends['first']))",
]


def forms(canary: str) -> Iterator[bytes]:
    """A value as it may hide: itself, for a URL, for JSON, in base64 at each of three beginnings, in UTF-16."""
    raw = canary.encode()
    yield raw
    yield quote(canary, safe="").encode()
    yield raw[::-1]
    yield canary.encode("utf-16-le")
    yield raw.hex().encode()
    for shift in range(3):
        yield base64.b64encode(b"x" * shift + raw)[4 if shift else 0 : -4]


class Search:
    def __init__(self, canaries: list[str]) -> None:
        self._needles = [(canary, form) for canary in canaries for form in forms(canary)]
        self.searched = 0
        self.hits: list[tuple[str, str]] = []

    def bytes(self, where: str, data: bytes) -> None:
        self.searched += len(data)
        self.hits += [(where, canary) for canary, form in self._needles if form in data]

    def folder(self, folder: Path, *allowed: str) -> None:
        for path in folder.rglob("*"):
            if path.is_file() and not any(re.search(pattern, str(path)) for pattern in allowed):
                self.bytes(str(path), path.read_bytes())


def processes_of(home: Home) -> Iterator[tuple[str, bytes]]:
    """Command lines and environments of everything that serves this home."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ, line = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
            cwd = os.fsencode(os.readlink(process / "cwd"))
        except OSError:
            continue
        if os.fsencode(home.root) in environ + line + cwd:
            yield f"{process} argv", line
            if int(process.name) != os.getpid():
                yield f"{process} environ of {line[:60]!r}", environ


@pytest.fixture
def canaries(home: Home, tmp_path: Path) -> list[str]:
    config = tmp_path / ".dstack/server/config.yml"
    config.parent.mkdir(parents=True)
    config.write_bytes(SAMPLE.read_bytes())
    config.chmod(0o600)
    found = re.findall(r"canary[-\w]+", SAMPLE.read_text())
    found += re.findall(r"secret: (\w{40,}=)}", SAMPLE.read_text())  # of encryption.keys, in base64 already
    assert len(found) >= 25
    # A broken copy: the error must name the place, not the value.
    (tmp_path / "broken.yml").write_text(re.sub(r"(canary-(aws|lambda|oci)\S*?)([,}\s])", r"[\1, {a: \1}]\3", SAMPLE.read_text()))
    (tmp_path / "token").write_text(ENV)
    (tmp_path / "registry").write_text(REGISTRY)
    return [*found, ENV, REGISTRY, TYPED]


def test_nothing_of_a_secret_is_left_behind_or_shown(
    home: Home, canaries: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F61 skypilot#10741, F63 skypilot#9529."""
    monkeypatch.setenv("DSTACK_JUPYTER_LOG_LEVEL", "DEBUG")
    search = Search(canaries)

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    executed = NotebookClient(
        notebook, timeout=120, allow_errors=True, store_widget_state=True, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    text = nbformat.writes(executed)
    search.bytes("notebook", text.encode())
    plain = re.sub(r"\\u001b\[[0-9;]*m", "", text)
    for sign in ("there", "RunFailed", "resouces", "AttributeError", "TypeError", "has the key", "sealed anew"):
        assert sign in plain, f"the scenario did not happen as meant: {sign} is missing"
    for sign in ("ModuleNotFoundError", "ImportError", "NameError"):
        assert sign not in plain, f"the scenario did not happen as meant: {sign}"

    # A run that is stored with its password and waits: the crash's and the other engine's case.
    client = connect(home)
    held = client.apply(
        ApplyRequest(
            configuration={
                "type": "task", "name": "held", "image": "i", "commands": ["true"], "env": {"TOKEN": TYPED},
                "registry_auth": {"username": "u", "password": "${{ env.REGISTRY }}"}, "schedule": {"cron": "0 0 1 1 *"},
            },
            request_key="held", context=Context(cwd="/"), registry_password=REGISTRY,
        )
    )  # fmt: skip
    going = client.apply(
        ApplyRequest(
            configuration={"type": "task", "name": "going", "env": {"TOKEN": TYPED}, "commands": ["echo up; sleep 600"]},
            request_key="going", context=Context(cwd="/"),
        )
    )  # fmt: skip
    wait_until(lambda: going.refresh().state == "running")

    assert (home.root / "store.db-wal").stat().st_size > 0
    search.folder(home.root, JOB_ENV)

    server = start(home)
    try:
        # The engine moves from its own process into the server; until it is there, answers would be empty ones.
        wait_until(lambda: (found := endpoint.read(home)) is not None and found.pid == server.process.pid)
        bodies = 0
        for method, path, body in requests(held.id):
            status, headers, answer = server.ask(method, path, body, Authorization=f"token {ADA}")
            assert status != 503, (method, path, answer)
            search.bytes(f"{method} {path} {status}", answer + json.dumps(headers).encode())
            bodies += len(answer)
        assert bodies > 2000
        for name, value in processes_of(home):
            if f"TOKEN={TYPED}".encode() in value and MARK.encode() in value:
                continue  # the job itself and its children: this is where the user sent it
            search.bytes(name, value)
        log = b"" if not home.engine_log.exists() else home.engine_log.read_bytes()
        assert b" DEBUG " in log
        search.bytes("server log", server.log.read_bytes())
    finally:
        server.stop()

    search.folder(tmp_path, r"/\.dstack/server/config\.yml$", r"/(broken\.yml|token|registry)$", JOB_ENV)
    going_again = connect(home).run("going")
    going_again.stop(abort=True).wait(20)
    connect(home).run("held").stop(abort=True)
    search.folder(home.root, JOB_ENV)
    print(f"{len(canaries)} canaries in {search.searched / 1e6:.1f} MB: {len(search.hits)} hits")
    assert search.hits == []


def requests(run: str) -> Iterator[tuple[str, str, object]]:
    api = "/dstack_jupyter/api/v1"
    for path in ("/info", "/doctor", "/backends", "/events", "/fleets", "/runs?all=1", f"/runs/{run}", "/runs/good/logs",
                 "/runs/bad/logs/raw", "/runs/good/files?path=nothing"):  # fmt: skip
        yield "GET", api + path, None
    auth = {"username": "u", "password": TYPED}
    faulty = {"type": "task", "commands": ["x"], "env": {"TOKEN": TYPED}, "registry_auth": {**auth, "password": [TYPED]}}
    service = {"type": "service", "env": {"T": TYPED}}
    yield "POST", api + "/runs/plan", {"configuration": {**faulty, "registry_auth": auth}}
    yield "POST", api + "/runs/plan", {"configuration": faulty}
    yield "POST", api + "/runs", {"configuration": faulty, "request_key": [TYPED], "context": TYPED, "registry_password": [TYPED]}
    yield "POST", api + "/fleets", {"configuration": {"type": "fleet", "ssh_config": {"hosts": [], "private_key": TYPED}}}
    yield "POST", api + "/runs", {"configuration": service, "request_key": "k", "context": {"cwd": 1}}


def test_the_search_itself_finds(tmp_path: Path) -> None:
    for number, form in enumerate(forms(ENV)):
        search = Search([ENV])
        search.bytes("here", b"before " + form + b" after")
        assert search.hits, number
    encoded = base64.b64encode(b'{"auth": "' + ENV.encode() + b'"}')
    search = Search([ENV])
    search.bytes("docker's config", encoded)
    assert search.hits


@pytest.mark.parametrize("name", ["httpx", "httpcore", "botocore", "azure.core.pipeline", "urllib3.connectionpool", "asyncssh"])
def test_libraries_do_not_say_what_they_send(home: Home, name: str) -> None:
    """F64 botocore#2626."""
    import subprocess
    import sys

    code = (
        "import logging\nfrom dstack_jupyter.engine.__main__ import log_to\nfrom dstack_jupyter.models.home import Home\n"
        f"home = Home.default()\nlog_to(home)\nlogging.getLogger({name!r}).info('GET https://x/?api_key={ENV}')\n"
        f"logging.getLogger({name!r}).warning('refused')\nprint(home.engine_log.read_text())\n"
    )
    env = {**os.environ, "DSTACK_JUPYTER_LOG_LEVEL": "DEBUG"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert "refused" in out
    assert ENV not in out
