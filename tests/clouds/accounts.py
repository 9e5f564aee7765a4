"""An account with a past, for tests of the sweeps: rows as the engine stores them, machines at the vendor, time that passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, insert, select, update

from dstack_jupyter.backends.base import Instance, ResourceRequest
from dstack_jupyter.engine.provisioning.vendor_calls import Vendors
from dstack_jupyter.engine.reconcilers.sweep import Sweeps
from dstack_jupyter.engine.runtime.bus import Bus
from dstack_jupyter.engine.runtime.queue import Key, Next
from dstack_jupyter.engine.service.cleanup import Cleanup
from dstack_jupyter.engine.store import cloud_instances as rented_rows
from dstack_jupyter.engine.store.columns import now
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.engine.store.schema import cloud_instances, cloud_resources, events, fleets, instances
from dstack_jupyter.engine.store.schema_accounts import accounts as accounts_table
from dstack_jupyter.engine.store.schema_accounts import orphans
from tests.clouds.core import VirtualClock
from tests.clouds.fixtures import INSTALLATION, OFFERS, Site

LONG = 3600.0
"""Seconds after which nothing is young any more."""


@dataclass
class Past:
    """A site whose account was used by this store."""

    site: Site
    database: Database
    vendors: Vendors
    woken: list[Key] = field(default_factory=list)

    def sweeps(self, vendors: Vendors | None = None) -> Sweeps:
        """As an engine that has just started has them."""
        return Sweeps(self.database, Bus(), vendors or self.vendors, INSTALLATION, self.woken.append)

    def cleanup(self) -> Cleanup:
        return Cleanup(self.database, self.sweeps(), Bus(), self.woken.append)

    @property
    def account_id(self) -> str:
        return str(self.site.account.account_id)

    async def use(self) -> None:
        """With the key that its machines are made with, as the engine stores it."""
        for need in self.site.account.needs(self.site.order()):

            def store(connection: Connection, need: ResourceRequest = need) -> None:
                rented_rows.need(connection, self.account_id, need, backend=self.site.name, project="main", instance_id="")
                rented_rows.made(connection, self.account_id, need, self.site.account.attach(need))

            await self.database.write(store)
        await self.later()

    async def sweep(self, sweeps: Sweeps | None = None) -> Next:
        """The sweep whose time has come, whenever the last one was; nothing that was seen gets older by that."""
        await self.database.write(lambda c: c.execute(update(accounts_table).values(swept_at=None, first_used_at=0.0)))
        return await (sweeps or self.sweeps()).reconcile(Key("sweep", self.account_id))

    async def later(self, seconds: float = LONG) -> None:
        """Time passes, for the store."""

        def pass_by(connection: Connection) -> None:
            for column in (accounts_table.c.first_used_at, accounts_table.c.swept_at, orphans.c.first_seen_at):
                connection.execute(update(column.table).values({column: column - seconds}))

        await self.database.write(pass_by)

    async def row(self, number: int, state: str = "idle", machine: Instance | None = None, account: str = "") -> str:
        """A rented instance as a run's own fleet has it; returns its identity. ``machine``: what the vendor told of it."""
        identity, offer = f"dj-{INSTALLATION[:8]}-{number:012x}", OFFERS[self.site.name]
        values = {"id": f"{number:016x}", "identity": identity, "project": "main", "fleet_id": f"f{number:015x}"}
        more = {"region": offer["region"], "instance_type": offer["instance_type"], "price": offer["price"]}

        def store(connection: Connection) -> None:
            fleet = {"id": values["fleet_id"], "project": "main", "name": f"run-{number}", "run_id": f"r{number:015x}"}
            connection.execute(insert(fleets).values(kind="run", state="active", created_at=now(), **fleet))
            more_values = {"offer": {}, "data": {}, "guard": {}, "backend": self.site.name, "state": state}
            connection.execute(insert(instances).values(created_at=now(), **values, **more, **more_values))
            vendor = dict(machine.data) if machine is not None else None
            told = {"account": account or self.account_id, "create_sent_at": now(), "vendor": vendor, "observed": {}}
            connection.execute(insert(cloud_instances).values(instance_id=values["id"], **told))

        await self.database.write(store)
        return identity

    async def resource(self, identity: str, number: int | None = None) -> str:
        """A key at the vendor with its row: shared, or of an instance. Returns the vendor's id."""
        public = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{identity[-20:].replace('-', 'x'):x<43}"
        made = self.site.account.attach(ResourceRequest("ssh-key", identity, data={"public_key": public}))
        values = {
            "account": self.account_id,
            "kind": "ssh-key",
            "identity": identity,
            "backend": self.site.name,
            "project": "main",
        }
        instance_id = None if number is None else f"{number:016x}"

        def store(connection: Connection) -> None:
            more = {"resource_id": made.id, "ours": 1, "data": {"public_key": public}, "created_at": now()}
            connection.execute(insert(cloud_resources).values(instance_id=instance_id, **values, **more))

        await self.database.write(store)
        return made.id

    async def rows(self, table: Any) -> list[Any]:
        return await self.database.read(lambda c: list(c.execute(select(table))))

    async def deeds(self) -> list[tuple[str, str, str]]:
        """(actor, name, action) of all events but those that only tell of an orphan."""
        return [(row.actor, row.name, row.action) for row in await self.rows(events) if row.action != "orphan"]

    def machine(self, number: int) -> Instance:
        """A machine at the vendor, made an hour ago by its clock."""
        made: Instance = self.site.account.create(self.site.order(number))
        return made

    def names(self) -> list[str]:
        """Machines that the vendor has."""
        return sorted(machine.name for machine in self.site.cloud.machines.values())

    def lists(self) -> int:
        """How often machines were listed: each look asks for those with GPUs, then for the others."""
        return sum("type=gpus" in url and "name=" not in url for method, url, _ in self.site.face.requests if method == "GET")


def hour_ago() -> VirtualClock:
    """A vendor's clock an hour back: what is made by it is old by ours."""
    return VirtualClock(time.time() - LONG)


Make = Callable[..., Site]
