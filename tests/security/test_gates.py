"""What must not be written anywhere in the package, whoever writes it next."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    path
    for folder in ("dstack_jupyter", "server_extension")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".sh") and "node_modules" not in path.parts
]

# (what, where it may stand nevertheless). asyncssh checks nothing with None; b"" trusts nobody, and our own check follows.
FORBIDDEN: list[tuple[str, str, set[str]]] = [
    ("host keys unchecked", r"known_hosts\s*=\s*None", set()),
    ("host keys unchecked", r"StrictHostKeyChecking[ =]+(no|off|accept-new)", set()),
    ("host keys handled elsewhere", r"known_hosts\s*=", {"machines/ssh/connection.py"}),
    ("agent or X11 forwarded", r"agent_forwarding\s*=\s*True|x11_forwarding\s*=\s*True|ForwardAgent yes|ForwardX11 yes", set()),
    ("TLS unchecked", r"verify\s*=\s*False|CERT_NONE|check_hostname\s*=\s*False|_create_unverified_context", set()),
    ("a shell reads what we made of text", r"shell\s*=\s*True|os\.system\(|os\.popen\(", set()),
    ("data is run", r"\bpickle\.loads?\(|\bmarshal\.loads?\(|(?<![\w.])eval\(|(?<![\w.])exec\(|allow_pickle\s*=\s*True", set()),
    ("YAML makes objects", r"yaml\.(unsafe_load|full_load)|Loader\s*=\s*yaml\.(Unsafe|Full)?Loader", set()),
    ("an archive is trusted", r"\.extractall\(|fully_trusted", set()),
    ("an archive is extracted elsewhere", r"\.extract\(", {"archives.py", "machines/job_folder.py", "client/unpack.py"}),
    ("a file is open to others", r"(chmod|mkdir|os\.open)\([^)]*0o[0-7]*[1-7]\b", set()),
    ("a secret is revealed into text", r"\{[^{}]*\.reveal\(\)[^{}]*\}|log\.\w+\([^)]*reveal\(", set()),
    ("a token in a URL", r"[?&]token=|api_key=\{", set()),
    ("HTML of a job unescaped", r"\|\s*safe\b|Markup\(|innerHTML", set()),
    ("a password on a command line", r"sshpass|docker login[^\n]*-p |--password[ =]", set()),
]


@pytest.mark.parametrize(("what", "pattern", "allowed"), FORBIDDEN)
def test_forbidden(what: str, pattern: str, allowed: set[str]) -> None:
    found = []
    for path in SOURCES:
        if any(str(path).endswith(each) for each in allowed):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(pattern, line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, f"{what}: {found}"


def test_every_connection_names_its_trust() -> None:
    """asyncssh reads the user's config, agent and known_hosts unless each is said: one place connects."""
    callers = [path for path in SOURCES if re.search(r"asyncssh\.(connect|create_connection)\(", path.read_text())]
    assert [path.name for path in callers] == ["connection.py"]
    text = callers[0].read_text()
    for wanted in (
        "config=None",
        "agent_path=None",
        'known_hosts=b""',
        "client_keys=",
        "keepalive_interval=",
        "connect_timeout=",
    ):
        assert wanted in text, wanted


def test_requests_to_other_machines_have_a_deadline() -> None:
    """F30 dstack#1241."""
    for path in SOURCES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"\b(requests|httpx)\.(get|post|put|delete|request|Client|AsyncClient)\(", line):
                assert "timeout" in line, f"{path.name}:{number}: {line}"
