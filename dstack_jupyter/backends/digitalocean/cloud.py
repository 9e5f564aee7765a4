"""Machines at DigitalOcean. AMD Developer Cloud is the same API at another host, see ``..amddevcloud.cloud``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from ...models.backends import PermissionView
from ...models.errors import BackendError, NotAtVendor, Refused, UnknownOutcome
from ...models.offers import OfferView
from ...models.secret import Secret
from ..base import CloudResource, Columns, Instance, InstanceRequest, InstanceStatus, ResourceRequest, Traits
from ..config.account import account
from ..rest import endpoint
from ..vendor import Vendor
from . import offers, rights
from .api import client, listed, projects
from .config import DigitalOceanConfig

WORDS: dict[str, InstanceStatus] = {"new": "starting", "active": "running", "off": "stopped", "archive": "stopped"}
KINDS = ("gpus", "droplets")
"""A list of droplets shows those with GPUs only where `type` asks for them, and then no others."""
TRAITS = Traits(resend="look", settles=120.0, stopped_is_billed=True, user_data=64 * 1024)


def image_of(offer: OfferView) -> str:
    """The image that has the drivers of an offer's GPUs."""
    if offer.gpu_vendor == "nvidia":
        return "gpu-h100x8-base" if offer.gpu_count >= 8 else "gpu-h100x1-base"
    return "gpu-amd-base" if offer.gpu_vendor == "amd" else "ubuntu-24-04-x64"


def material(public_key: str) -> str:
    """The part of a public key that identifies it: all but its comment."""
    return " ".join(public_key.split()[:2])


class DigitalOceanCloud:
    """``backends.base.Cloud`` of one token. Nothing is called when it is made."""

    traits = TRAITS

    def __init__(self, name: str, title: str, base: str, token: Secret, project_name: str | None) -> None:
        self.name = name
        self.title = title
        self.rest = client(name, base, token, title)
        self._project_name = project_name

    @property
    def account_id(self) -> str:
        return self.rest.account_id

    def offers(self) -> Columns:
        sizes = listed(self.rest, "/v2/sizes", "sizes", "sizes:read")
        regions = listed(self.rest, "/v2/regions", "regions", "regions:read")
        return offers.columns(self.name, sizes, frozenset(str(row["slug"]) for row in regions if row.get("available")))

    def check(self) -> list[PermissionView]:
        return rights.rows(self.rest, account(self.name).permissions, self._project_name, self.title)

    def needs(self, order: InstanceRequest) -> Sequence[ResourceRequest]:
        """A key object: without one the vendor mails a root password. The installation shares one, for the account keeps them."""
        if not order.login_key:
            return []
        key = material(order.login_key)
        return [ResourceRequest("ssh-key", f"{order.identity.rpartition('-')[0]}-key", shared=True, data={"public_key": key})]

    def attach(self, need: ResourceRequest) -> CloudResource:
        key = need.data["public_key"]
        for _ in range(2):
            for row in self._keys():
                if material(str(row["public_key"])) == key:
                    # The user's own key of the same material, under the user's own name, is used and never removed.
                    ours = row["name"] == need.identity
                    return CloudResource(need.kind, str(row["name"]), str(row["id"]), ours, {"public_key": key})
            try:
                body = {"name": need.identity, "public_key": key}
                row = self.rest.make("/v2/account/keys", body, permission="ssh_key:create")["ssh_key"]
                return CloudResource(need.kind, need.identity, str(row["id"]), data={"public_key": key})
            except Refused as error:
                if "already in use" not in error.message:
                    raise
            except (KeyError, TypeError):
                raise UnknownOutcome(f"{self.title}: a key without its id") from None
        raise BackendError(f"{self.title} has this key and does not list it", hint="ask again in a moment")

    def list_attached(self, installation: str) -> list[CloudResource]:
        return [
            CloudResource("ssh-key", str(row["name"]), str(row["id"]), data={"public_key": material(str(row["public_key"]))})
            for row in self._keys()
            if str(row["name"]).startswith(f"dj-{installation[:8]}-")
        ]

    def detach(self, resource: CloudResource) -> None:
        if not resource.ours:
            return
        with suppress(NotAtVendor):
            self.rest.send("DELETE", f"/v2/account/keys/{resource.id}", permission="ssh_key:delete")

    def _keys(self) -> list[dict[str, Any]]:
        return listed(self.rest, "/v2/account/keys", "ssh_keys", "ssh_key:read")

    def create(self, order: InstanceRequest) -> Instance:
        """Names may repeat at this vendor, so a machine of the identity is looked for first."""
        if not order.first and (there := self.find(order.identity)):
            return there[0]
        if len(order.user_data.encode()) > TRAITS.user_data:
            raise Refused(f"{self.title} takes at most {TRAITS.user_data >> 10} KiB of user-data")
        body: dict[str, Any] = {
            "name": order.identity,
            "region": order.offer.region,
            "size": order.offer.instance_type,
            "image": image_of(order.offer),
            "ssh_keys": [int(resource.id) for resource in order.resources if resource.kind == "ssh-key"],
            "user_data": order.user_data,
        }
        if self._project_name:
            # In the create itself: giving a droplet to a project afterwards needs a scope that the page does not list.
            body["project_id"] = self._project_id(self._project_name)
        answer = self.rest.make("/v2/droplets", body, permission="droplet:create")
        try:
            return self._instance(answer["droplet"])
        except (KeyError, TypeError, ValueError):
            raise UnknownOutcome(f"{self.title} accepted a create and names no droplet") from None

    def _project_id(self, name: str) -> str:
        names = projects(self.rest)
        if name not in names:
            raise Refused(f"{self.title} has no project {name!r}", hint=f"it has: {', '.join(sorted(names)[:12])}")
        return names[name]

    def find(self, identity: str) -> list[Instance]:
        """Oldest first."""
        return self._droplets(identity, {"name": identity})

    def list_all(self, installation: str) -> list[Instance]:
        return self._droplets(f"dj-{installation[:8]}-", {})

    def _droplets(self, prefix: str, params: Mapping[str, str]) -> list[Instance]:
        rows = {
            row["id"]: row
            for kind in KINDS
            for row in listed(self.rest, "/v2/droplets", "droplets", "droplet:read", {**params, "type": kind})
            # Names are compared without case there, identities exactly here.
            if (row["name"] == prefix if params else str(row["name"]).startswith(prefix))
        }
        return sorted((self._instance(row) for row in rows.values()), key=lambda each: (each.created_at, each.data["id"]))

    def get(self, data: Mapping[str, Any]) -> Instance | None:
        try:
            return self._instance(self.rest.get(f"/v2/droplets/{int(data['id'])}", permission="droplet:read")["droplet"])
        except NotAtVendor:
            return None
        except (KeyError, TypeError, ValueError):
            raise BackendError(f"{self.title}: a droplet that makes no sense") from None

    def terminate(self, data: Mapping[str, Any]) -> bool:
        """One droplet by its number: never by tag, and never with what belongs to others."""
        try:
            self.rest.send("DELETE", f"/v2/droplets/{int(data['id'])}", permission="droplet:delete")
        except NotAtVendor:
            return False
        return True

    def start(self, data: Mapping[str, Any]) -> None:
        """A droplet that is off keeps its disk and addresses, and is billed as if it were on. A running droplet is refused."""
        try:
            action = {"type": "power_on"}
            self.rest.send("POST", f"/v2/droplets/{int(data['id'])}/actions", action, permission="droplet:update")
        except Refused:
            droplet = self.get(data)
            if droplet is None or droplet.status == "stopped":
                raise

    def _instance(self, row: Mapping[str, Any]) -> Instance:
        number = int(row["id"])
        networks = (row.get("networks") or {}).get("v4") or []
        addresses = {str(each.get("type")): str(each.get("ip_address") or "") for each in reversed(networks)}
        said = str(row.get("status", ""))
        return Instance(
            identity=str(row["name"]),
            data={"id": number},
            status=WORDS.get(said, "unknown"),
            raw_status=said,
            region=str((row.get("region") or {}).get("slug", "")),
            address=addresses.get("public", ""),
            internal_address=addresses.get("private", ""),
            created_at=_seconds(str(row.get("created_at", ""))),
            console=self._console(number),
        )

    def _console(self, number: int) -> str:
        return f"https://cloud.digitalocean.com/droplets/{number}"


def _seconds(moment: str) -> float:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return 0.0


class DigitalOcean(Vendor[DigitalOceanConfig]):
    """``type: digitalocean``."""

    name = "digitalocean"
    config_type = DigitalOceanConfig

    def endpoint(self) -> str:
        return endpoint(self.name, "https://api.digitalocean.com")

    def connect(self, config: DigitalOceanConfig, endpoint: str) -> DigitalOceanCloud:
        return DigitalOceanCloud(self.name, "DigitalOcean", endpoint, config.creds.api_key, config.project_name)
