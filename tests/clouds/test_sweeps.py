"""Sweeps over the wire (R10, R11, R12): nothing that we pay for stays unseen, and nothing that may be somebody's is ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from dstack_jupyter.backends.base import ResourceRequest
from dstack_jupyter.engine.provisioning.vendor_calls import Vendors
from dstack_jupyter.engine.reconcilers.sweep import EVERY, SELDOM, SOON
from dstack_jupyter.engine.runtime.queue import Key
from dstack_jupyter.engine.store import accounts
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.engine.store.schema import cloud_instances, cloud_resources, events
from dstack_jupyter.engine.store.schema_accounts import accounts as accounts_table
from dstack_jupyter.engine.store.schema_accounts import orphans
from tests.clouds.accounts import Past
from tests.clouds.fixtures import INSTALLATION, configure

FOREVER = float("inf")
KEY = f"dj-{INSTALLATION[:8]}-key"


async def test_r10_a_machine_whose_row_has_ended_is_ended_again_and_nobody_elses(past: Past) -> None:
    machine = past.machine(1)
    identity = await past.row(1, "terminated", machine)
    past.site.stranger("web-1")
    past.site.stranger(f"dj-ffffffff-{1:012x}")
    await past.sweep()
    await past.later()
    done = await past.sweep()
    assert past.names() == [f"dj-ffffffff-{1:012x}", "web-1"]
    assert await past.deeds() == [("engine", identity, "swept")]
    assert done.guard == SOON, "until the vendor lists it no more"
    await past.sweep()
    assert await past.rows(orphans) == []


async def test_an_orphan_that_was_just_seen_is_not_touched(past: Past) -> None:
    """Old by the vendor's clock, and seen in many sweeps: an engine elsewhere may still be at it."""
    await past.row(1, "terminated", past.machine(1))
    for _ in range(4):
        await past.sweep()
    await past.later(100)
    await past.sweep()
    assert len(past.names()) == 1
    await past.later(100)
    await past.sweep()
    assert past.names() == []


async def test_an_orphan_that_is_young_at_its_vendor_is_not_touched(past: Past) -> None:
    """An identity that was seen long ago, and a machine of it that was made now."""
    past.site.cloud.clock.advance(3600 - 60)
    await past.row(1, "terminated", past.machine(1))
    await past.sweep()
    await past.later()
    await past.sweep()
    assert len(past.names()) == 1


async def test_one_sweep_ends_nothing_however_old_a_machine_is(past: Past) -> None:
    """F35 ray#14264."""
    await past.row(1, "terminated", past.machine(1))
    await past.sweep()
    assert len(past.names()) == 1


async def test_a_machine_that_this_store_never_knew_is_reported_and_left_alone(past: Past) -> None:
    """A copy of the store, or the store before it was restored, may have it."""
    machine = past.machine(1)
    for _ in range(3):
        await past.sweep()
        await past.later()
    assert past.names() == [machine.identity]
    (row,) = await past.rows(orphans)
    assert (row.identity, row.verdict, row.raw_status, row.region, row.delete_accepted_at) == (
        machine.identity, "unknown", "new", machine.region, None,
    )  # fmt: skip
    assert await past.deeds() == []
    told = [(row.name, row.action, row.kind) for row in await past.rows(events)]
    assert told == [(machine.identity, "orphan", "instance")], "once"


async def test_what_is_made_while_a_sweep_begins_is_no_orphan(past: Past) -> None:
    """The cloud is listed first: rows that are read before know nothing of what is made in between."""

    class Meanwhile(Vendors):
        async def call(self, account: str, function: Callable[..., Any], *args: object, ends: bool = False) -> Any:
            if function.__name__ == "list_all" and not await past.rows(orphans):
                await past.row(1, "provisioning", past.machine(1))
            return await super().call(account, function, *args, ends=ends)

    vendors = Meanwhile(INSTALLATION)
    await past.sweep(past.sweeps(vendors))
    vendors.close()
    assert len(past.names()) == 1
    assert await past.rows(orphans) == []


@pytest.mark.parametrize(("fault", "after"), [("list is cut", 0), ("answers 500", 0), ("answers 500", 3)])
async def test_r12_from_a_list_that_is_not_whole_nothing_is_concluded(past: Past, fault: str, after: int) -> None:
    await past.row(1, "terminated", past.machine(1))
    await past.sweep()
    await past.later()
    before = await past.rows(orphans)
    past.site.cloud.faults.arm(fault, times=FOREVER)
    done = await past.sweep()
    assert done.guard == done.rest > 0
    assert await past.rows(orphans) == before
    assert len(past.names()) == 1
    (account,) = await past.rows(accounts_table)
    assert account.problem and account.swept_at is None and account.claimed_until is None
    past.site.cloud.faults.disarm(fault)
    await past.sweep()
    (account,) = await past.rows(accounts_table)
    assert account.problem == "" and account.swept_at is not None
    assert past.names() == []


async def test_r12_things_that_cannot_be_listed_are_no_reason_to_forget_them(past: Past) -> None:
    past.site.account.attach(
        ResourceRequest("ssh-key", f"{KEY}-2", data={"public_key": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5Wf6"})
    )
    await past.sweep()
    before = await past.rows(orphans)
    assert [row.kind for row in before] == ["ssh-key"]
    past.site.scopes("ssh_key:read")
    await past.sweep()
    assert await past.rows(orphans) == before
    (account,) = await past.rows(accounts_table)
    assert "ssh_key:read" in account.problem


@pytest.mark.parametrize("known", [0, 1, None])
async def test_of_two_machines_of_a_name_the_one_that_is_known_stays_else_the_oldest(past: Past, known: int | None) -> None:
    past.site.cloud.faults.arm("made twice")
    past.machine(1)
    both = past.site.account.find(past.site.order(1).identity)
    await past.row(1, "provisioning", both[known] if known is not None else None)
    await past.sweep()
    assert len(past.names()) == 2
    await past.later()
    await past.sweep()
    assert past.site.account.find(both[0].identity) == [both[known or 0]]
    assert past.woken.count(Key("instance", f"{1:016x}")) == (2 if known is None else 0)


async def test_a_machine_that_lives_is_not_touched_whatever_its_row_knows(past: Past) -> None:
    """F34 ray#63424."""
    for number, state in enumerate(("pending", "provisioning", "idle", "busy", "terminating")):
        machine = past.machine(number)
        await past.row(number, state, machine if state in ("idle", "busy") else None)
    for _ in range(3):
        await past.sweep()
        await past.later()
    assert len(past.names()) == 5
    assert await past.rows(orphans) == []
    assert {key.id for key in past.woken} == {f"{number:016x}" for number in (0, 1, 4)}


async def test_an_end_that_fails_is_asked_for_again_at_each_sweep(past: Past) -> None:
    await past.row(1, "terminated", past.machine(1))
    await past.row(2, "terminated", past.machine(2))
    await past.sweep()
    await past.later()
    past.site.cloud.faults.arm("delete fails")
    await past.sweep()
    assert len(past.names()) == 1, "the other one is ended all the same"
    await past.sweep()
    assert past.names() == []
    assert len(await past.deeds()) == 2


async def test_a_machine_that_is_on_its_way_out_is_not_ended_twice(past: Past, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some vendors punish a burst of deletes."""
    from dstack_jupyter.backends.digitalocean import cloud

    monkeypatch.setitem(cloud.WORDS, "new", "ending")
    await past.row(1, "terminated", past.machine(1))
    for _ in range(3):
        await past.sweep()
        await past.later()
    assert not [url for method, url, _ in past.site.face.requests if method == "DELETE"]


async def test_r11_what_was_attached_to_a_machine_goes_after_it(past: Past) -> None:
    """An engine died between a machine's end and the end of what it had. (F40 skypilot#426)"""
    await past.row(1, "terminated")
    await past.row(2, "idle", past.machine(2))
    await past.resource(f"dj-{INSTALLATION[:8]}-{1:012x}-nic", 1)
    kept = await past.resource(f"dj-{INSTALLATION[:8]}-{2:012x}-nic", 2)
    shared = await past.resource(f"dj-{INSTALLATION[:8]}-group")
    await past.sweep()
    left = {row.resource_id for row in await past.rows(cloud_resources)}
    assert left == {str(number) for number in past.site.face.keys} >= {kept, shared}
    assert len(past.site.face.keys) == 3, "with the key that machines are made with"
    assert await past.rows(orphans) == []


async def test_an_account_that_is_not_configured_any_more_keeps_all_that_is_known(past: Past) -> None:
    """F24 dstack#2114."""
    past.machine(1)
    await past.sweep()
    await past.later()
    before = await past.rows(orphans)
    mark = past.account_id
    (Path.home() / ".dstack/server/config.yml").unlink()
    done = await past.sweeps().reconcile(Key("sweep", mark))
    assert done.guard == SELDOM
    assert await past.rows(orphans) == before
    (account,) = await past.rows(accounts_table)
    assert account.problem


async def test_an_account_with_a_new_key_is_swept_by_that(past: Past) -> None:
    old = past.account_id
    past.site.account.rest.close()
    past.site.face.tokens["dop_v1_another"] = past.site.face.tokens[next(iter(past.site.face.tokens))]
    configure("digitalocean", "dop_v1_another")
    assert past.account_id != old
    await past.sweeps().reconcile(Key("sweep", old))
    assert {row.account_id: bool(row.problem) for row in await past.rows(accounts_table)} == {old: True, past.account_id: False}
    assert past.woken == [Key("sweep", past.account_id)]


async def test_of_two_engines_one_sweeps(past: Past) -> None:
    key = Key("sweep", past.account_id)
    done = await asyncio.gather(*(past.sweeps().reconcile(key) for _ in range(3)))
    assert past.lists() == 1
    assert max(found.guard or 0 for found in done) == SELDOM


async def test_sweeps_are_seldom_where_nothing_is_rented_and_never_where_nothing_was(past: Past) -> None:
    sweeps = past.sweeps()
    key = Key("sweep", past.account_id)
    assert (await sweeps.reconcile(key)).guard == SELDOM
    done = await sweeps.reconcile(key)
    assert past.lists() == 1 and SELDOM - 60 < (done.guard or 0) <= SELDOM
    await past.row(1, "idle", past.machine(1))
    await past.later(EVERY + 1)
    assert (await sweeps.reconcile(key)).guard == EVERY
    assert past.lists() == 2
    assert (await sweeps.reconcile(Key("sweep", "never-used"))).guard is None
    assert past.lists() == 2


async def test_an_account_is_swept_often_for_an_hour_after_the_last_create(past: Past) -> None:
    """A create that nobody waits for any more may still make something."""
    await past.row(1, "terminated")
    assert (await past.sweep()).guard == EVERY
    await past.database.write(
        lambda c: c.execute(update(cloud_instances).values(create_sent_at=cloud_instances.c.create_sent_at - 3601))
    )
    assert (await past.sweep()).guard == SELDOM


async def test_an_engine_that_starts_sweeps_at_once(past: Past) -> None:
    await past.sweeps().reconcile(Key("sweep", past.account_id))
    await past.later(61)
    assert past.lists() == 1
    await past.sweeps().reconcile(Key("sweep", past.account_id))
    assert past.lists() == 2


async def test_an_account_that_is_new_is_swept_within_a_minute_whoever_lives_then(past: Past) -> None:
    key = Key("sweep", past.account_id)
    await past.later(-3590)  # used ten seconds ago
    sweeps = past.sweeps()
    assert 40 < ((await sweeps.reconcile(key)).guard or 0) <= 50 and past.lists() == 0
    await past.later(51)
    for each in (sweeps, past.sweeps()):
        await each.reconcile(key)
    assert past.lists() == 1


async def test_an_account_is_stored_once_whoever_uses_it(database: Database) -> None:
    before = time.time()
    for _ in range(3):
        await database.write(accounts.used, "mark", "digitalocean", "main")
    (row,) = await database.read(accounts.every)
    assert (row.account_id, row.backend, row.project, row.problem) == ("mark", "digitalocean", "main", "")
    assert abs(row.first_used_at - before) < 60
    assert await database.read(accounts.marks) == ["mark"]
