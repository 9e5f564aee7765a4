"""The fakes themselves: held to the vendor's published file, by fuzzing from outside and by answers of every kind."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clouds.catalog import PAGE_SCOPES, SPEC, SWITCHES
from tests.clouds.contract import Exchange, dump, needed
from tests.clouds.core import Cloud, VirtualClock
from tests.clouds.digitalocean import OPERATIONS, ROUTES, DigitalOceanFace, contract
from tests.clouds.server import Server

TOKEN = "dop_v1_canary_of_the_fake_itself_0001"


@pytest.fixture
def face() -> Iterator[DigitalOceanFace]:
    found = DigitalOceanFace(Cloud(switches=SWITCHES), spec=needed(SPEC))
    found.tokens[TOKEN] = PAGE_SCOPES
    yield found
    found.cloud.empty()


def call(face: DigitalOceanFace, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    status, _, sent = face.handle(method, path, headers, b"" if body is None else json.dumps(body).encode())
    return status, json.loads(sent) if sent else None


DROPLET = {"name": "dj-1", "region": "tor1", "size": "s-4vcpu-8gb", "image": "ubuntu-24-04-x64"}


def test_every_operation_is_in_the_published_file() -> None:
    paths = contract(needed(SPEC)).document["paths"]
    published = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    for method, pattern in ROUTES:
        shape = pattern.replace("([^/]+)", "{}").replace("([0-9]+)", "{}")
        assert any(method == verb and _shape(path) == shape for verb, path in published), (method, pattern)
    assert set(OPERATIONS) == set(ROUTES.values())


def _shape(path: str) -> str:
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))


@pytest.mark.parametrize(
    "body",
    [
        {**DROPLET, "node_count": 1},
        {**DROPLET, "name": "no spaces"},
        {**DROPLET, "name": None},
        {**DROPLET, "ssh_keys": 7},
        {**DROPLET, "user_data": ["#cloud-config"]},
        {key: value for key, value in DROPLET.items() if key != "image"},
        [],
    ],
    ids=["unknown", "pattern", "null", "type", "list", "lacks", "array"],
)
def test_a_create_that_breaks_the_file_makes_nothing(face: DigitalOceanFace, body: Any) -> None:
    assert call(face, "POST", "/v2/droplets", body)[0] == 422
    assert not face.cloud.machines
    assert len(face.breaches) == 1


@pytest.mark.parametrize("query", ["per_page=500", "per_page=0", "page=-1", "type=gpu", "limit=10", "per_page=many"])
def test_a_query_that_breaks_the_file_is_refused(face: DigitalOceanFace, query: str) -> None:
    assert call(face, "GET", f"/v2/droplets?{query}")[0] == 422
    assert face.breaches


def test_an_answer_that_breaks_the_file_is_noted(face: DigitalOceanFace) -> None:
    call(face, "POST", "/v2/droplets", DROPLET)
    assert not face.breaches
    face.cloud.faults.arm("status", "hibernated")
    call(face, "GET", "/v2/droplets")
    assert "hibernated" in face.breaches[0]


def test_every_answer_fits_the_file(face: DigitalOceanFace) -> None:
    key = {"name": "k", "public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5Wf6c0zY4Yb1yY8z7m6Z9b"}
    number = call(face, "POST", "/v2/account/keys", key)[1]["ssh_key"]["id"]
    droplet = call(face, "POST", "/v2/droplets", DROPLET | {"ssh_keys": [number], "user_data": "#"})[1]["droplet"]["id"]
    project = call(face, "POST", "/v2/projects", {"name": "p", "purpose": "IoT"})[1]["project"]["id"]
    assert isinstance(face.cloud.clock, VirtualClock)
    face.cloud.clock.advance(60)
    for method, path, body, status in (
        ("GET", "/v2/account", None, 200),
        ("GET", "/v2/account/keys", None, 200),
        ("GET", f"/v2/account/keys/{number}", None, 200),
        ("PUT", f"/v2/account/keys/{number}", {"name": "k2"}, 200),
        ("GET", "/v2/regions", None, 200),
        ("GET", "/v2/sizes?per_page=2&page=2", None, 200),
        ("GET", "/v2/projects", None, 200),
        ("PATCH", f"/v2/projects/{project}", {"description": "d"}, 200),
        ("GET", "/v2/droplets", None, 200),
        ("GET", "/v2/droplets?type=gpus&name=dj-1", None, 200),
        ("GET", f"/v2/droplets/{droplet}", None, 200),
        ("POST", f"/v2/droplets/{droplet}/actions", {"type": "power_off"}, 201),
        ("DELETE", f"/v2/droplets/{droplet}", None, 204),
        ("DELETE", f"/v2/droplets/{droplet}", None, 404),
        ("DELETE", f"/v2/account/keys/{number}", None, 204),
        ("DELETE", f"/v2/projects/{project}", None, 204),
    ):
        assert call(face, method, path, body)[0] == status, (method, path)
    assert not face.breaches, face.breaches


def test_an_unknown_field_of_an_answer_is_a_breach() -> None:
    """The contract looks both ways: `forbid` holds for answers too."""
    file = contract(needed(SPEC))
    request = Exchange("GET", "http://fake/v2/regions", {"Authorization": f"Bearer {TOKEN}"}, b"")
    region = {"name": "N", "slug": "nyc1", "features": [], "available": True, "sizes": []}
    for more, wrong in (({}, False), ({"continent": "America"}, True), ({"available": "yes"}, True)):
        body = json.dumps({"regions": [region | more], "links": {}, "meta": {"total": 1}}).encode()
        headers = {"Content-Type": "application/json", "ratelimit-limit": "1", "ratelimit-remaining": "1", "ratelimit-reset": "1"}
        assert bool(file.answer(request, Exchange("GET", "http://fake/v2/regions", headers, body, 200))) is wrong


@pytest.mark.machines
@pytest.mark.timeout(400)
def test_no_invalid_request_gets_a_2xx(face: DigitalOceanFace, tmp_path: Path) -> None:
    """schemathesis makes requests that break the file, for every operation, and wants none of them accepted."""
    server = Server(face)
    try:
        document = dict(face.contract.document) if face.contract is not None else {}
        file = tmp_path / "do.json"
        file.write_text(dump(_implemented(document)))
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("schemathesis"), "run", file, "--url", server.url),
                *("--mode", "negative", "--checks", "negative_data_rejection,not_a_server_error", "--phases", "coverage,fuzzing"),
                *("--max-examples", "40", "--seed", "7", "--no-shrink", "--suppress-health-check", "all"),
                *("-H", f"Authorization: Bearer {TOKEN}"),
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        assert len(face.requests) > 500, "too few requests to say anything"
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{server.url}/v2/account")
    finally:
        server.close()


def _implemented(document: dict[str, Any]) -> dict[str, Any]:
    """The file with the operations that the fake has."""
    shapes = {(method, pattern.replace("([^/]+)", "{}").replace("([0-9]+)", "{}")) for method, pattern in ROUTES}
    kept = {
        path: {
            verb: value for verb, value in operations.items() if verb == "parameters" or (verb.upper(), _shape(path)) in shapes
        }
        for path, operations in document["paths"].items()
    }
    return document | {"paths": kept}
