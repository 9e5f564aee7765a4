"""DigitalOcean's face of a simulated cloud, over real HTTP. AMD Developer Cloud is the same face with other sizes.

Held against the published OpenAPI file in both directions: a request that breaks it gets a 4xx and is noted, an answer of ours
that breaks it is a defect of the fake. What the live service does beyond the file is in ``overlay``.
"""

from __future__ import annotations

import itertools
import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.clouds.catalog import IMAGES, PATHS, REGIONS, SIZES, WORDS, overlay
from tests.clouds.contract import Contract, Exchange, cut, load
from tests.clouds.core import Cloud, CloudError, Machine
from tests.clouds.server import Failure

NOT_FOUND = (404, "not_found", "The resource you were accessing could not be found.")
SERVER_ERROR = (500, "server_error", "Server was unable to give you a response.")


@cache
def contract(spec: Path) -> Contract:
    """The published file as far as it concerns us, once a process."""
    return Contract(cut(load(spec), PATHS, overlay), "http://fake")


class DigitalOceanFace:
    """The state of an account that is not machines, and each operation. Called on the server's thread only."""

    def __init__(self, cloud: Cloud, sizes: list[dict[str, Any]] | None = None, spec: Path | None = None) -> None:
        self.cloud = cloud
        self.sizes = list(sizes or SIZES)
        self.tokens: dict[str, frozenset[str]] = {}
        self.keys: dict[int, dict[str, Any]] = {}
        self.projects: dict[str, dict[str, Any]] = {}
        self.account_status = "active"
        self.team = "Analytical Engines"
        self.deletes: dict[int, int] = {}
        self.requests: list[tuple[str, str, Any]] = []
        """(method, path with query, body) of every request that came in."""
        self.breaches: list[str] = []
        """What broke the published file: requests of ours and answers of the fake."""
        self.contract = contract(spec) if spec is not None else None
        self._key_ids = itertools.count(9_000_001)
        self.add_project("first-project", default=True)

    def add_project(self, name: str, *, default: bool = False) -> str:
        number = str(uuid.uuid4())
        moment = stamp(self.cloud.clock.now())
        self.projects[number] = {
            "id": number, "owner_uuid": "99525febec065ca37b2ffe4f852fd2b2581895e7", "owner_id": 258992, "name": name,
            "description": "", "purpose": "Web Application", "environment": "Production", "created_at": moment,
            "updated_at": moment, "is_default": default,
        }  # fmt: skip
        return number

    def add_key(self, name: str, public_key: str) -> dict[str, Any]:
        number = next(self._key_ids)
        row = {
            "id": number,
            "fingerprint": ":".join(f"{byte:02x}" for byte in uuid.uuid4().bytes),
            "public_key": public_key,
            "name": name,
        }
        self.keys[number] = row
        return row

    # What comes in.

    def handle(self, method: str, url: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """(status, headers, body). Raises Failure with ``cut`` where the connection is to be cut."""
        path = urlsplit(url).path
        try:
            parsed = json.loads(body) if body else None
        except ValueError:
            parsed = None
        self.requests.append((method, url, parsed))
        request = Exchange(method, f"http://fake{url}", headers, body)
        try:
            status, answer = self._answer(method, path, url, headers, parsed, request)
            sent = b"" if answer is None else json.dumps(answer).encode()
            extra: dict[str, str] = {}
        except Failure as failure:
            if failure.cut:
                raise
            status, extra = failure.status, failure.headers
            sent = json.dumps({"id": failure.id, "message": failure.message, "request_id": str(uuid.uuid4())}).encode()
        out = {
            "Content-Type": "application/json",
            "ratelimit-limit": "5000",
            "ratelimit-remaining": "4999",
            "ratelimit-reset": "1444931833",
        }
        out |= extra
        if sent == b'"half"':
            return status, out, b'{"droplet": {"id": 1'
        if self.contract is not None and not 300 <= status < 400 and status != 405 and self._known(path):
            wrong = self.contract.answer(request, Exchange(method, f"http://fake{url}", out, sent, status))
            if wrong:
                self.breaches.append(f"answer to {method} {url}: {status} {wrong}")
        return status, out, sent

    def _answer(self, method: str, path: str, url: str, headers: dict[str, str], body: Any, request: Exchange) -> tuple[int, Any]:
        take = self.cloud.faults.take
        if (host := take("moved")) is not None:
            raise Failure(301, "moved", "moved", {"Location": f"https://{host}{url}"})
        scopes = self.tokens.get(headers.get("Authorization", "").removeprefix("Bearer "))
        if scopes is None:
            raise Failure(401, "unauthorized", "Unable to authenticate you")
        if (seconds := take("rate limit")) is not None:
            raise Failure(429, "too_many_requests", "API Rate limit exceeded.", {"retry-after": str(seconds)})
        operation, argument = self._operation(method, path)
        for scope in OPERATIONS[operation]:
            if scope not in scopes:
                raise Failure(403, "forbidden", "You are not authorized to perform this operation")
        if operation != "create_droplet" and take("answers 500"):
            raise Failure(*SERVER_ERROR)
        wrong = self.contract.request(request) if self.contract is not None else ""
        query = {name: values[-1] for name, values in parse_qs(urlsplit(url).query, keep_blank_values=True).items()}
        if wrong:
            # What cannot be accepted on purpose (a look at rights) is no fault of ours.
            if body != {}:
                self.breaches.append(f"{method} {url} {body}: {wrong}")
            raise Failure(422, "unprocessable_entity", "The request does not fit the published file")
        if body in (None, {}) and method in ("POST", "PUT", "PATCH"):
            raise Failure(422, "unprocessable_entity", "Name is required") if argument is None else Failure(*NOT_FOUND)
        act: Callable[..., tuple[int, Any]] = getattr(self, operation)
        return act(query=query, body=body, argument=argument)

    def _known(self, path: str) -> bool:
        return any(re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", known), path) for known in PATHS)

    def _operation(self, method: str, path: str) -> tuple[str, str | None]:
        for (verb, pattern), operation in ROUTES.items():
            found = re.fullmatch(pattern, path)
            if found and verb == method:
                return operation, found.groups()[0] if found.groups() else None
        if self._known(path):
            raise Failure(405, "method_not_allowed", "no such method")
        raise Failure(*NOT_FOUND)

    def _page(self, key: str, rows: list[Any], query: dict[str, str]) -> tuple[int, Any]:
        each, page = int(query.get("per_page", 20)), int(query.get("page", 1))
        shown = rows[(page - 1) * each : page * each]
        if shown and self.cloud.faults.take("list is cut"):
            shown = shown[:-1]
        return 200, {key: shown, "links": {}, "meta": {"total": len(rows)}}

    # The account.

    def get_account(self, **_: Any) -> tuple[int, Any]:
        locked = bool(self.cloud.faults.take("account locked"))
        account = {
            "droplet_limit": self.cloud.quota, "floating_ip_limit": 5, "email": "ada@example.com", "name": "Ada",
            "uuid": "b6fr89dbf6d9156cace5f3c78dc9851d957381ef", "email_verified": True,
            "status": "locked" if locked else self.account_status, "status_message": "unpaid bill" if locked else "",
            "team": {"uuid": "5df3e3004a17e242b7c20ca6c9fc25b701a47ece", "name": self.team},
        }  # fmt: skip
        return 200, {"account": account}

    def list_keys(self, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        return self._page("ssh_keys", list(self.keys.values()), query)

    def create_key(self, body: Any, **_: Any) -> tuple[int, Any]:
        material = " ".join(body["public_key"].split()[:2])
        if not re.fullmatch(r"(ssh-(ed25519|rsa)|ecdsa-\S+) [A-Za-z0-9+/=]{16,}", material):
            raise Failure(422, "unprocessable_entity", "Key invalid, key should be of the format `type key [comment]`")
        if self.cloud.faults.take("key race"):
            self.add_key("somebody-else", body["public_key"])
        if any(" ".join(row["public_key"].split()[:2]) == material for row in self.keys.values()):
            raise Failure(422, "unprocessable_entity", "SSH Key is already in use on your account")
        return 201, {"ssh_key": self.add_key(body["name"], body["public_key"])}

    def _key(self, argument: str) -> dict[str, Any]:
        row = self.keys.get(int(argument)) if argument.isdecimal() else None
        if row is None:
            raise Failure(*NOT_FOUND)
        return row

    def get_key(self, argument: str, **_: Any) -> tuple[int, Any]:
        return 200, {"ssh_key": self._key(argument)}

    def update_key(self, argument: str, body: Any, **_: Any) -> tuple[int, Any]:
        self._key(argument)["name"] = body["name"]
        return 200, {"ssh_key": self._key(argument)}

    def delete_key(self, argument: str, **_: Any) -> tuple[int, Any]:
        del self.keys[self._key(argument)["id"]]
        return 204, None

    def list_projects(self, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        return self._page("projects", list(self.projects.values()), query)

    def create_project(self, body: Any, **_: Any) -> tuple[int, Any]:
        return 201, {"project": self.projects[self.add_project(body["name"])]}

    def _project(self, argument: str) -> dict[str, Any]:
        if argument not in self.projects:
            raise Failure(*NOT_FOUND)
        return self.projects[argument]

    def update_project(self, argument: str, body: Any, **_: Any) -> tuple[int, Any]:
        self._project(argument).update(
            {name: value for name, value in body.items() if name in ("name", "description", "purpose")}
        )
        return 200, {"project": self._project(argument)}

    def delete_project(self, argument: str, **_: Any) -> tuple[int, Any]:
        self._project(argument)
        if any(machine.project == argument for machine in self.cloud.machines.values()):
            raise Failure(412, "precondition_failed", "cannot delete a project with resources")
        del self.projects[argument]
        return 204, None

    def list_regions(self, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        rows = [self._region(slug) for slug in REGIONS]
        return self._page("regions", rows, query)

    def _region(self, slug: str) -> dict[str, Any]:
        sold = [row["slug"] for row in self.sizes if slug in row["regions"]]
        return {"name": slug.upper(), "slug": slug, "features": ["metadata"], "available": REGIONS[slug], "sizes": sold}

    def list_sizes(self, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        return self._page("sizes", self.sizes, query)

    # Droplets.

    def list_droplets(self, query: dict[str, str], **_: Any) -> tuple[int, Any]:
        if "tag_name" in query and ("name" in query or "type" in query):
            raise Failure(422, "unprocessable_entity", "tag_name can not be combined with name or type")
        gpus = query.get("type") == "gpus"
        rows = [machine for machine in self.cloud.listed() if machine.gpu == gpus]
        if "name" in query:
            rows = [machine for machine in rows if machine.name.lower() == query["name"].lower()]
        return self._page("droplets", [self._droplet(machine) for machine in rows], query)

    def create_droplet(self, body: Any, **_: Any) -> tuple[int, Any]:
        faults = self.cloud.faults
        if faults.take("not made, connection cut"):
            raise Failure(0, cut=True)
        if faults.take("not made, answers 500"):
            raise Failure(*SERVER_ERROR)
        if "names" in body:
            raise Failure(422, "unprocessable_entity", "one at a time here")
        found = next((row for row in self.sizes if row["slug"] == body["size"]), None)
        if found is None:
            raise Failure(422, "unprocessable_entity", "You specified an invalid size for Droplet creation.")
        region = body.get("region") or next(iter(found["regions"]), "")
        if region not in REGIONS or not REGIONS[region]:
            raise Failure(422, "unprocessable_entity", "Region is not available")
        if region not in found["regions"]:
            raise Failure(422, "unprocessable_entity", "Size is not available in this region.")
        if body["image"] not in IMAGES:
            raise Failure(422, "unprocessable_entity", "You specified an invalid image for Droplet creation.")
        if any(key not in self.keys for key in body.get("ssh_keys", []) if isinstance(key, int)):
            raise Failure(422, "unprocessable_entity", "SSH keys are invalid")
        if len(body.get("user_data", "").encode()) > 64 * 1024:
            raise Failure(422, "unprocessable_entity", "User data is too long (maximum is 64 KiB)")
        if body.get("tags"):
            raise Failure(403, "forbidden", "You are not authorized to perform this operation")  # tag:create
        project = body.get("project_id") or next(row["id"] for row in self.projects.values() if row["is_default"])
        if project not in self.projects:
            raise Failure(422, "unprocessable_entity", "project not found")
        try:
            machine = self.cloud.create(
                name=body["name"], size=body["size"], region=region, image=str(body["image"]), project=project,
                user_data=body.get("user_data", ""), gpu="gpu_info" in found,
                more={"keys": body.get("ssh_keys", []), "mailed a password": not body.get("ssh_keys")},
            )  # fmt: skip
        except CloudError as error:
            raise Failure(422, "unprocessable_entity", REFUSALS[error.kind]) from None
        if (gate := faults.take("answer waits")) is not None:
            gate.wait(20)
        if faults.take("made, answer lost"):
            raise Failure(0, cut=True)
        if faults.take("made, answers 500"):
            raise Failure(*SERVER_ERROR)
        if faults.take("made, answers nonsense"):
            return 202, "half"
        href = f"https://api.digitalocean.com/v2/actions/{machine.id + 1}"
        return 202, {
            "droplet": self._droplet(machine, fresh=True),
            "links": {"actions": [{"id": machine.id + 1, "rel": "create", "href": href}]},
        }

    def _machine(self, argument: str) -> Machine:
        machine = self.cloud.get(int(argument))
        if machine is None:
            raise Failure(*NOT_FOUND)
        return machine

    def get_droplet(self, argument: str, **_: Any) -> tuple[int, Any]:
        return 200, {"droplet": self._droplet(self._machine(argument))}

    def delete_droplet(self, argument: str, **_: Any) -> tuple[int, Any]:
        number = int(argument)
        if self.cloud.faults.take("delete fails"):
            raise Failure(*SERVER_ERROR)
        machine = self.cloud.machines.get(number)
        if machine is not None and machine.status == "ending":
            self.deletes[number] = self.deletes.get(number, 0) + 1
            allowed = self.cloud.faults.take("deletes are punished")
            if allowed is not None and self.deletes[number] > allowed:
                self.account_status = "locked"
            raise Failure(422, "unprocessable_entity", "Droplet already has a pending event.")
        if not self.cloud.delete(number):
            raise Failure(*NOT_FOUND)
        self.deletes[number] = self.deletes.get(number, 0) + 1
        return 204, None

    def act_on_droplet(self, argument: str, body: Any, **_: Any) -> tuple[int, Any]:
        machine = self._machine(argument)
        if body["type"] == "rename":
            machine.name = body["name"]
        elif body["type"] == "power_on":
            if machine.status in ("starting", "ending"):
                raise Failure(422, "unprocessable_entity", "Droplet already has a pending event.")
            if machine.status != "stopped":
                raise Failure(422, "unprocessable_entity", "Droplet is already powered on.")
            self.cloud.start(machine.id)
        elif body["type"] == "power_off":
            machine.status = "stopped"
        moment = stamp(self.cloud.clock.now())
        action = {
            "id": machine.id + 2, "status": "in-progress", "type": body["type"], "started_at": moment, "completed_at": None,
            "resource_id": machine.id, "resource_type": "droplet", "region": self._region(machine.region),
            "region_slug": machine.region,
        }  # fmt: skip
        return 201, {"action": action}

    def _droplet(self, machine: Machine, *, fresh: bool = False) -> dict[str, Any]:
        found = next(row for row in self.sizes if row["slug"] == machine.size)
        v4: list[dict[str, str]] = []
        if machine.address and not fresh:
            # The order is not promised.
            v4 = [
                {"ip_address": machine.internal, "netmask": "255.255.0.0", "gateway": "10.0.0.1", "type": "private"},
                {"ip_address": machine.address, "netmask": "255.255.255.0", "gateway": "203.0.113.1", "type": "public"},
            ][:: 1 if machine.id % 2 else -1]
        moment = stamp(machine.created_at)
        image = {
            "id": 7555620, "name": machine.image, "type": "base", "distribution": "Ubuntu", "slug": machine.image,
            "public": True, "regions": [machine.region], "created_at": moment, "min_disk_size": 20, "size_gigabytes": 2.3,
            "description": "", "tags": [], "status": "available", "error_message": "",
        }  # fmt: skip
        return {
            "id": machine.id, "name": machine.name, "memory": found["memory"], "vcpus": found["vcpus"], "disk": found["disk"],
            "locked": machine.status in ("starting", "ending"),
            "status": self.cloud.faults.take("status") or WORDS[machine.status],
            "created_at": moment, "features": ["droplet_agent"], "backup_ids": [], "next_backup_window": None,
            "snapshot_ids": [], "image": image, "volume_ids": [], "size": found, "size_slug": machine.size,
            "networks": {"v4": v4, "v6": []}, "region": self._region(machine.region), "tags": [],
        } | ({"gpu_info": found["gpu_info"]} if machine.gpu else {})  # fmt: skip


REFUSALS = {
    "capacity": "Size is not available in this region.",
    "quota": "creating this/these droplet(s) will exceed your droplet limit",
    "balance": "Please verify your billing information before you create more droplets.",
}
KEY, DROPLET, PROJECT = r"/v2/account/keys/([^/]+)", r"/v2/droplets/([0-9]+)", r"/v2/projects/([^/]+)"
ROUTES = {
    ("GET", "/v2/account"): "get_account",
    ("GET", "/v2/account/keys"): "list_keys", ("POST", "/v2/account/keys"): "create_key",
    ("GET", KEY): "get_key", ("PUT", KEY): "update_key", ("DELETE", KEY): "delete_key",
    ("GET", "/v2/projects"): "list_projects", ("POST", "/v2/projects"): "create_project",
    ("PATCH", PROJECT): "update_project", ("DELETE", PROJECT): "delete_project",
    ("GET", "/v2/regions"): "list_regions", ("GET", "/v2/sizes"): "list_sizes",
    ("GET", "/v2/droplets"): "list_droplets", ("POST", "/v2/droplets"): "create_droplet",
    ("GET", DROPLET): "get_droplet", ("DELETE", DROPLET): "delete_droplet",
    ("POST", DROPLET + "/actions"): "act_on_droplet",
}  # fmt: skip
OPERATIONS = {
    "get_account": ("account:read",), "list_keys": ("ssh_key:read",), "create_key": ("ssh_key:create",),
    "get_key": ("ssh_key:read",), "update_key": ("ssh_key:update",), "delete_key": ("ssh_key:delete",),
    "list_projects": ("project:read",), "create_project": ("project:create",), "update_project": ("project:update",),
    "delete_project": ("project:delete",), "list_regions": ("regions:read",), "list_sizes": ("sizes:read", "regions:read"),
    "list_droplets": ("droplet:read",), "create_droplet": ("droplet:create",), "get_droplet": ("droplet:read",),
    "delete_droplet": ("droplet:delete",), "act_on_droplet": ("droplet:update",),
}  # fmt: skip


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
