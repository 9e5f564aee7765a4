"""The service of fleets. All of it runs on the engine's loop; every error is one of ``models.errors``."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from ...machines.ssh.connection import Address
from ...models import fleets as model
from ...models.errors import ConfigurationError, NotFound, NotSupportedYet
from ...models.fleets import FleetConfiguration, ProxyJump, SSHHost, SSHParams
from ...models.fleets_view import FleetPlan, FleetRequest, FleetView
from ...models.home import Home
from ...models.offers import UNAVAILABLE, OfferView
from ...models.yaml_reader import Source
from ...models.yaml_source import validate
from ..keys import identity_files
from ..names import identity, new_id, run_name
from ..reconcilers.fleet_parts import FleetParts
from ..runtime.queue import Key
from ..store import cloud_fleets, host_keys, hosts

KeyFile = Callable[[str | None], str]
SHOWN = 5
"""Offers that a plan shows."""
CLUSTER = "the machines are in one region of one backend; a vendor's placement groups are not used"


class FleetService:
    """``forget`` lets go of the machine of a host; ``born`` hears of a fleet that ``owner``, this engine, leases from its first
    moment."""

    def __init__(
        self,
        parts: FleetParts,
        home: Home,
        leave: Callable[[str], Awaitable[None]],
        owner: str = "",
        born: Callable[[str, list[Key]], None] = lambda *_: None,
    ) -> None:
        self._provisioning = parts.provisioning
        self._owner = owner
        self._born = born
        self._database = parts.database
        self._bus = parts.bus
        self._home = home
        self._installation = parts.installation
        self._wake = parts.wake
        self._leave = leave

    async def apply(self, request: FleetRequest, *, user: str, files: bool = True) -> FleetView:
        """Store a fleet, or bring the one of that name in line, and begin to reach its hosts or to create its machines.

        ``files``: who asks may read the files of this account. Raises ConfigurationError, NotSupportedYet, Conflict (a host that
        changes runs a job, a change that holds for machines that are there), Forbidden (a key file that is not theirs to name).
        """
        fleet = checked(request.configuration)
        name = fleet.name or run_name()
        if fleet.ssh_config is None:
            return await self._apply_cloud(fleet, name, request.project, user)
        anywhere = files and not self._database.shared

        def key(name: str | None) -> str:
            return identity_files.stored(name, request.base, self._home, anywhere=anywhere)

        new = [self._host(fleet, fleet.ssh_config, host, key) for host in fleet.ssh_config.hosts]

        def store(connection: Any) -> tuple[str, list[str], bool]:
            return hosts.apply_fleet(
                connection,
                fleet_id=new_id(),
                name=name,
                project=request.project,
                user=user,
                configuration={**fleet.given(), "name": name},
                hosts=new,
                owner=self._owner,
            )

        fleet_id, touched, fresh = await self._database.write(store)
        if fresh:
            self._born(fleet_id, [Key("host", each) for each in touched])
        self._bus.publish_all()
        for instance_id in touched:
            self._wake(Key("host", instance_id))
        return await self.get(name, project=request.project)

    async def _apply_cloud(self, fleet: FleetConfiguration, name: str, project: str, user: str) -> FleetView:
        store = partial(
            cloud_fleets.apply_fleet,
            fleet_id=new_id(),
            name=name,
            project=project,
            user=user,
            configuration={**fleet.given(), "name": name},
            owner=self._owner,
        )
        fleet_id, fresh = await self._database.write(store)
        if fresh:
            self._born(fleet_id, [Key("fleet", fleet_id)])
        self._bus.publish_all()
        self._wake(Key("fleet", fleet_id))
        return await self.get(name, project=project)

    async def plan(self, request: FleetRequest) -> FleetPlan:
        """The cloud instances that ``apply`` would request. Changes nothing. Raises ConfigurationError, NotSupportedYet."""
        fleet = checked(request.configuration)
        name = fleet.name or run_name()
        known = next((view for view in await self.list(project=request.project) if view.name == name), None)
        if fleet.nodes is None:
            return FleetPlan(name=name, active=known is not None)
        offers, missing = await self._provisioning.fleet_offers(fleet)
        living = len(known.hosts) if known is not None else 0
        more = max(0, fleet.nodes.wanted - living)
        return FleetPlan(
            name=name,
            active=known is not None,
            offers=offers[:SHOWN],
            total_offers=len(offers),
            missing=missing,
            more=more,
            price=price_of(offers, more),
            notes=[CLUSTER] if fleet.placement == "cluster" else [],
        )

    def _host(self, fleet: FleetConfiguration, params: SSHParams, host: SSHHost, key: KeyFile) -> hosts.NewHost:
        instance_id = new_id()
        address = address_of(params, host, key)
        data = {
            "address": address.to_json(),
            "endpoint": address.endpoint,
            "blocks_wanted": host.blocks if host.blocks is not None else fleet.blocks,
            "internal_ip": host.internal_ip or "",
            "network": params.network or "",
        }
        hostname = host.hostname if address.port == 22 else f"{host.hostname}:{address.port}"
        return hosts.NewHost(instance_id, identity(self._installation, instance_id), hostname, data)

    async def list(self, *, project: str) -> list[FleetView]:
        return await self._database.read_aside(hosts.fleet_views, project, fingerprint)

    async def get(self, name: str, *, project: str) -> FleetView:
        """One fleet by name or id. Raises NotFound."""
        fleet = await self._database.read(hosts.find_fleet, name, project)
        return next(view for view in await self.list(project=project) if view.id == fleet.id)

    async def delete(self, name: str, *, project: str, user: str) -> None:
        """Give all hosts of a fleet back, end all its cloud instances. Raises NotFound, Conflict while one runs a job."""

        def store(connection: Any) -> list[Key]:
            fleet = hosts.find_fleet(connection, name, project)
            if fleet.kind == "ssh":
                return [Key("host", each) for each in hosts.delete_fleet(connection, fleet, user)]
            cloud_fleets.delete_fleet(connection, fleet, user)
            return [Key("fleet", fleet.id)]

        for key in await self._database.write(store):
            self._wake(key)
        self._bus.publish_all()

    async def trust(self, name: str, hostname: str, *, project: str) -> FleetView:
        """Forget the pinned key of a host, which was reinstalled, say: the next contact pins the key that it shows then."""
        view = await self.get(name, project=project)
        host = next((host for host in view.hosts if hostname in (host.hostname, host.id)), None)
        if host is None:
            raise NotFound(
                f"fleet {name} has no host {hostname}", hint=f"hosts: {', '.join(each.hostname for each in view.hosts)}"
            )
        row, _ = await self._database.read(hosts.load_host, host.id)
        await self._database.write(host_keys.unpin, row.data.endpoint)
        await self._leave(host.id)
        self._wake(Key("host", host.id))
        return view


def price_of(offers: Sequence[OfferView], machines: int) -> float | None:
    """Dollars per hour of so many machines of the cheapest offer that can be had; None where that is not known.

    Without an available offer the price is unknown, and not 0: a fleet tries again by itself.
    """
    if not machines:
        return 0.0
    each = next((offer.price for offer in offers if offer.availability not in UNAVAILABLE), None)
    return None if each is None else each * machines


def checked(configuration: dict[str, Any]) -> FleetConfiguration:
    """The configuration as a model. Raises ConfigurationError, NotSupportedYet for what is not built."""
    fleet = validate(Source(configuration, ""))
    if not isinstance(fleet, FleetConfiguration):
        raise ConfigurationError(f"a {fleet.type} is no fleet")
    keys = model.unsupported(fleet)
    if keys:
        raise NotSupportedYet(f"not supported yet: {', '.join(keys)}", hint="leave these keys out for now")
    return fleet


def address_of(params: SSHParams, host: SSHHost, key: KeyFile) -> Address:
    """Where a host is reached, the fleet's defaults filled in; ``key`` makes what a row keeps of an ``identity_file``."""

    def jump(proxy: ProxyJump | None) -> Address | None:
        if proxy is None:
            return None
        return Address(proxy.hostname, proxy.port, proxy.user, key(proxy.identity_file or params.identity_file))

    return Address(
        host.hostname,
        host.port or params.port or 22,
        host.user or params.user or "",
        key(host.identity_file or params.identity_file),
        jump(host.proxy_jump or params.proxy_jump),
    )


def fingerprint(key: str) -> str:
    """What `ssh-keygen -l` prints of a key; '' for none."""
    if not key:
        return ""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
