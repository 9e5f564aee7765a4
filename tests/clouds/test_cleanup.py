"""`%dstack cleanup` over the wire: everything that was ever made is listed, and only what nobody needs is ended."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys

import pytest

from dstack_jupyter.client import connect
from dstack_jupyter.engine.runtime.queue import Key
from dstack_jupyter.engine.store.schema import cloud_resources, instances
from dstack_jupyter.engine.store.schema_accounts import orphans
from dstack_jupyter.models.cleanup_view import AccountView, CleanupRequest, EndedView, MadeView, ResourceRef
from dstack_jupyter.models.errors import Conflict, NotFound
from dstack_jupyter.models.home import Home
from tests.clouds.accounts import Make, Past, hour_ago
from tests.clouds.fixtures import INSTALLATION

FOREVER = float("inf")
KEY = f"dj-{INSTALLATION[:8]}-key"


async def look(past: Past) -> AccountView:
    (account,) = await past.cleanup().accounts()
    return account


async def end(past: Past, *made: MadeView) -> list[EndedView]:
    resources = [ResourceRef(kind=each.kind, resource_id=each.resource_id) for each in made]
    return await past.cleanup().end(CleanupRequest(account=past.account_id, resources=resources), user="ada")


async def test_everything_is_listed_with_what_has_it_and_what_it_costs(past: Past) -> None:
    used, late = past.machine(1), past.machine(2)
    await past.row(1, "busy", used)
    await past.row(2, "terminated", late)
    await past.row(3, "pending")
    unknown = past.machine(4)
    past.site.stranger("web-1")
    account = await look(past)
    assert (account.backend, account.project, account.problem) == ("digitalocean", "main", "")
    found = {each.name: each for each in account.made}
    assert found.keys() == {used.identity, late.identity, f"dj-{INSTALLATION[:8]}-{3:012x}", unknown.identity, KEY}
    mine = found[used.identity]
    assert (mine.standing, mine.state, mine.price, mine.user, mine.deletable) == ("in use", "busy", 0.07143, "run-1", False)
    assert mine.console.startswith("https://")
    ended = found[late.identity]
    assert (ended.standing, ended.price, ended.deletable) == ("ending", 0.07143, False)
    assert "nobody ends it before" in ended.why
    assert (found[unknown.identity].standing, found[unknown.identity].price) == ("left", None)
    assert (found[KEY].kind, found[KEY].standing, found[KEY].deletable) == ("ssh-key", "kept", False)
    assert len(past.names()) == 4, "a list ends nothing"


async def test_what_nobody_needs_is_ended_and_it_is_told_who_did_it(past: Past) -> None:
    unknown = past.machine(4)
    await look(past)
    await past.later()
    account = await look(past)
    assert {each.name: each.deletable for each in account.made} == {unknown.identity: True, KEY: True}
    answers = await end(past, *account.made)
    assert [answer.done for answer in answers] == [True, True]
    assert past.names() == [] and past.site.face.keys == {}
    assert {(who, name, what) for who, name, what in await past.deeds()} == {
        ("ada", unknown.identity, "cleaned"),
        ("ada", KEY, "cleaned"),
    }
    assert (await look(past)).made == []
    (row,) = await past.rows(cloud_resources)
    assert row.resource_id == "", "the next machine has it made anew"
    assert [(answer.done, answer.message) for answer in await end(past, *account.made)] == [(True, "it is gone already")] * 2


async def test_what_a_run_has_is_never_ended_whatever_is_asked(past: Past) -> None:
    """A run took it since the list was read: what is asked for is looked at anew."""
    machine = past.machine(1)
    await look(past)
    await past.later()
    account = await look(past)
    assert all(each.deletable for each in account.made)
    await past.row(1, "busy", machine)
    answers = await end(past, *account.made)
    assert past.names() == [machine.identity] and len(past.site.face.keys) == 1
    assert answers[1].done is False and "1 machine of this account needs it" in answers[1].message
    again = {each.name: each for each in (await look(past)).made}
    (refused,) = await end(past, again[machine.identity])
    assert (refused.done, past.names()) == (False, [machine.identity])


async def test_what_may_be_in_the_making_elsewhere_is_not_ended(past: Past) -> None:
    past.machine(1)
    account = await look(past)
    (machine,) = [each for each in account.made if each.kind == "instance"]
    (answer,) = await end(past, machine)
    assert not answer.done and "nobody ends it before" in answer.message
    assert len(past.names()) == 1


async def test_a_second_machine_of_a_name_goes_and_the_one_that_is_used_stays(past: Past) -> None:
    past.site.cloud.faults.arm("made twice")
    past.machine(1)
    first, second = past.site.account.find(past.site.order(1).identity)
    await past.row(1, "busy", second)
    await look(past)
    await past.later()
    (left,) = [each for each in (await look(past)).made if each.deletable]
    assert (await end(past, left))[0].done
    assert past.site.account.find(first.identity) == [second]


async def test_an_account_that_cannot_be_asked_says_why_and_shows_what_is_known(past: Past) -> None:
    machine = past.machine(1)
    await past.row(1, "busy", machine)
    past.machine(2)
    await look(past)
    past.site.face.tokens.clear()
    account = await look(past)
    assert "does not know this key" in account.problem and "configure" in account.hint
    assert {each.name for each in account.made} == {machine.identity, f"dj-{INSTALLATION[:8]}-{2:012x}", KEY}
    assert not any(each.deletable for each in account.made)
    assert len(await past.rows(orphans)) == 1


async def test_an_end_that_the_vendor_refuses_is_told_and_the_rest_goes_on(past: Past) -> None:
    past.machine(1)
    past.machine(2)
    await look(past)
    await past.later()
    made = [each for each in (await look(past)).made if each.kind == "instance"]
    past.site.cloud.faults.arm("delete fails")
    answers = await end(past, *made)
    assert [answer.done for answer in answers] == [False, True]
    assert answers[0].message
    assert len(past.names()) == 1


async def test_an_account_that_was_never_used_is_not_touched(past: Past) -> None:
    with pytest.raises(NotFound):
        await past.cleanup().end(CleanupRequest(account="elsewhere", resources=[]), user="ada")


async def test_a_machine_whose_account_is_gone_for_good_is_forgotten_by_its_name(past: Past) -> None:
    """Its row ends by a user's word; were the account there again, the sweep would find the machine and end it (R3)."""
    machine = past.machine(1)
    await past.row(1, "terminating", machine)
    with pytest.raises(Conflict, match="its vendor answers"):
        await past.cleanup().forget(machine.identity, user="ada")
    tokens = dict(past.site.face.tokens)
    past.site.face.tokens.clear()
    with pytest.raises(NotFound, match="named 'dj-other'"):
        await past.cleanup().forget("dj-other", user="ada")
    answer = await past.cleanup().forget(machine.identity, user="ada")
    assert (answer.name, answer.done) == (machine.identity, True)
    (row,) = await past.rows(instances)
    assert (row.state, row.message.partition(",")[0]) == ("terminated", "forgotten by ada")
    assert ("ada", machine.identity, "forgotten") in await past.deeds()
    assert Key("fleet", row.fleet_id) in past.woken, "its run ends"
    assert [each.name for each in (await look(past)).made if each.kind == "instance"] == []
    with pytest.raises(NotFound):
        await past.cleanup().forget(machine.identity, user="ada")
    past.site.face.tokens.update(tokens)
    await past.sweep()
    await past.later()
    await past.sweep()
    assert past.names() == []


async def test_nothing_is_forgotten_for_a_network_that_is_away(past: Past) -> None:
    machine = past.machine(1)
    await past.row(1, "terminating", machine)
    past.site.server.close()
    past.site.account.rest.close()
    with pytest.raises(Conflict, match="is not reached"):
        await past.cleanup().forget(machine.identity, user="ada")
    (row,) = await past.rows(instances)
    assert row.state == "terminating"


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dstack_jupyter", *arguments], capture_output=True, text=True, env=os.environ, timeout=60
    )


def test_the_command_from_a_shell(make_site: Make, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an engine of its own: nothing is ended without a yes, then what nobody needs goes, and the rest is listed.

    F54 dask-cloudprovider#220.
    """
    site = make_site(clock=hour_ago())
    assert "never made anything at a vendor" in shell("cleanup").stdout
    name = f"dj-{home.installation()[:8]}-{1:012x}"
    site.stranger(name)
    site.stranger("web-1")
    mark = site.account.account_id

    def store(*statements: str) -> None:
        with sqlite3.connect(home.store, timeout=30) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    values = f"('{mark}', 'digitalocean', 'main', 1.0, '')"
    store(f"INSERT INTO accounts (account_id, backend, project, first_used_at, problem) VALUES {values}")
    assert [account.account_id for account in connect(home).cleanup()] == [mark]
    done = shell("cleanup")
    assert name in done.stdout and "web-1" not in done.stdout, done.stdout + done.stderr
    assert "1 machine of which the price is not known" in done.stdout
    doctor = shell("doctor").stdout
    assert "digitalocean has 1 machine of our names that no row needs" in doctor and "`jupyter dstack cleanup`" in doctor
    store("UPDATE orphans SET first_seen_at = first_seen_at - 3600")
    assert "1 of this can be ended: `jupyter dstack cleanup --delete`" in shell("cleanup").stdout
    refused = shell("cleanup", "--delete")
    assert refused.returncode == 1 and "nobody can be asked here" in refused.stderr
    assert len(site.cloud.machines) == 2
    ended = shell("cleanup", "--delete", "-y", "--json")
    assert ended.returncode == 0, ended.stderr
    assert f"digitalocean: instance {name}: the vendor ends it" in ended.stderr
    (account,) = json.loads(ended.stdout)
    assert account["made"] == []
    assert [machine.name for machine in site.cloud.machines.values()] == ["web-1"]
    assert "nothing of ours" in shell("cleanup").stdout
    refused = shell("cleanup", "--forget", name)
    assert refused.returncode == 1 and "End it in the vendor's console first." in refused.stderr
    refused = shell("cleanup", "--forget", name, "-y")
    assert refused.returncode == 1 and f"is named '{name}'" in refused.stderr
