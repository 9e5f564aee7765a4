"""The YAML of the backends page: every valid block is accepted, each faulty one refused with its fault named."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from dstack_jupyter.backends.config.check import check

PAGE = Path(__file__).resolve().parents[3] / "shared" / "reference" / "backends-page.txt"
SA = {"type": "service_account", "client_email": "me@my-gcp-project.iam.gserviceaccount.com", "private_key": "canary-gcp-4471"}
IDS = {"kid": "publickey-1", "sub": "serviceaccount-1"}
CLI = {
    "subject-credentials": {
        "type": "JWT",
        "alg": "RS256",
        "private-key": "canary-neb-9981",
        "kid": "publickey-1",
        "sub": "serviceaccount-1",
    }
}
FAULTY = {
    "azure-vpc": ["regions: unknown key", "vpc_ids: unknown key", "tenant_id: is missing", "subscription_id: is missing"],
    "azure-private": ["tenant_id: is missing", "subscription_id: is missing"],
    "gcp-private": ["project_id: is missing"],
    "kubernetes": ["mapping values are not allowed", "indented deeper"],
}
"""Reference ``configuration`` §3: the page's own faults."""


def blocks() -> list[str]:
    """The YAML documents of the page, whose text has lost its fences."""
    if not PAGE.exists():
        assert not os.environ.get("CI") or not PAGE.parents[1].exists()
        pytest.skip("needs ../shared/reference/backends-page.txt")
    found: list[list[str]] = []
    entry = False  # whether the block is a backend's entry alone, whose keys stand at the left
    for line in [*PAGE.read_text().splitlines(), "end"]:
        inside = bool(found) and found[-1][-1] != "end"
        if line == "projects:" and not (inside and entry and found[-1][-1].startswith("type:")):
            found.append([line])
            entry = False
        elif re.match(r"type: [a-z]+$", line):
            found.append([line])
            entry = True
        elif inside and (not line.strip() or line.startswith((" ", "- ")) or (entry and re.match(r"[a-z_]+:", line))):
            if "•" in line:
                found[-1].append("end")
            else:
                found[-1].append(line)
        elif inside:
            found[-1].append("end")
    return ["\n".join(line for line in block if line != "end").rstrip() + "\n" for block in found]


def name_of(block: str) -> str:
    """Which of the faulty blocks it is; '' for a valid one."""
    if "type: kubernetes" in block:
        return "kubernetes"
    if "type: azure" in block and "vpc_ids" in block:
        return "azure-private" if "public_ips" in block else "azure-vpc"
    if "type: gcp" in block and "public_ips" in block:
        return "gcp-private"
    return ""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the files that the page's blocks name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, text in {
        ".dstack/server/gcp-024ed630eab5.json": json.dumps(SA),
        "path/to/key.pem": "-----BEGIN PRIVATE KEY-----\ncanary-pem-1\n-----END PRIVATE KEY-----\n",
        ".nebius/sa-credentials.json": json.dumps(CLI),
        ".oci/private_key.pem": "canary-oci-1",
        ".kube/config": "apiVersion: v1\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o600)
        path.write_text(text)
    return tmp_path


def test_every_block_of_the_page(files: Path) -> None:
    found = blocks()
    assert len(found) == 35
    seen = dict.fromkeys(FAULTY, 0)
    for block in found:
        checked = check(block, file="config.yml")
        fault = name_of(block)
        if not fault:
            assert checked.valid, (block, checked.errors)
            assert "canary" not in json.dumps(checked.to_json())
            continue
        seen[fault] += 1
        assert not checked.valid
        told = [str(problem) for problem in checked.errors]
        for expected in FAULTY[fault]:
            assert any(expected in each for each in told), (expected, told)
        assert all(problem.line for problem in checked.errors), told
    assert seen == dict.fromkeys(FAULTY, 1)


def test_the_files_that_blocks_name_must_be_there(files: Path) -> None:
    for path in files.rglob("*"):
        if path.is_file():
            path.unlink()
    refused = [
        check(block, file="config.yml") for block in blocks() if re.search(r"(filename|private_key_file|key_file):", block)
    ]
    told = [str(problem) for checked in refused for problem in checked.errors]
    assert sum("there is no such file" in each for each in told) == 5, told


def test_no_message_shows_a_secret(files: Path) -> None:
    for wrong in ("client_secrett", "api_keyy", "secret_keyy"):
        creds = f"{{type: api_key, {wrong}: canary-key-77, api_key: 12}}"
        text = f"projects:\n- name: main\n  backends:\n  - type: lambda\n    creds: {creds}\n"
        checked = check(text, file="c.yml")
        assert "unknown key" in str(checked.errors)
        assert "canary" not in str(checked.errors) + json.dumps(checked.to_json()) + repr(checked)
