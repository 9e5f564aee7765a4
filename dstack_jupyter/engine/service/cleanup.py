"""`%dstack cleanup`: everything that this installation ever made in the accounts, and the end of orphans.

Each answer is a look of its own at the vendors. A machine that a run or fleet has is never ended here: `%dstack stop` does that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sqlalchemy import Connection

from ...backends.base import CloudResource, Instance
from ...models.cleanup_view import AccountView, CleanupRequest, EndedView, MadeView, Standing
from ...models.errors import BackendError, BackendUnreachable, Conflict, NotFound, RateLimited
from ..reconcilers.sweep import Look, Sweeps
from ..runtime.bus import Bus
from ..runtime.queue import Key
from ..steps import sweep as steps
from ..store import accounts, cloud_instances
from ..store.accounts import LivingMachine
from ..store.database import Database
from ..store.rows import AccountRow

WHY = {
    "ended": "its run has ended, and it is there: the sweeps end it",
    "double": "a second machine of one name: the sweeps end it",
    "unknown": "this installation's name, and no row of this store",
}


class Cleanup:
    def __init__(self, database: Database, sweeps: Sweeps, bus: Bus, wake: Callable[[Key], None]) -> None:
        self._database = database
        self._sweeps = sweeps
        self._bus = bus
        self._wake = wake

    async def accounts(self) -> list[AccountView]:
        """Each account with its machines and cloud resources, the vendors asked now."""
        rows = await self._database.read(accounts.every)
        return list(await asyncio.gather(*(self._account(row) for row in rows)))

    async def _account(self, row: AccountRow) -> AccountView:
        view = AccountView(
            account_id=row.account_id,
            backend=row.backend,
            project=row.project,
            first_used_at=row.first_used_at,
            swept_at=row.swept_at,
        )
        try:
            look = await self._sweeps.look(row)
        except BackendError as error:
            view.problem, view.hint = error.message, error.hint
            known = await self._database.read(accounts.known, row, [], [])
            view.made = as_stored(row, known)
            return view
        view.made = [*machines(look), *resources(look)]
        return view

    async def end(self, wanted: CleanupRequest, *, user: str) -> list[EndedView]:
        """End what is asked for of one account, as far as nobody needs it by a look that is taken now.

        Raises NotFound for an account that was never used, BackendError if it cannot be asked.
        """
        rows = {row.account_id: row for row in await self._database.read(accounts.every)}
        if wanted.account not in rows:
            raise NotFound("this installation never used such an account", hint="`%dstack cleanup` lists them")
        look = await self._sweeps.look(rows[wanted.account])
        made = {(each.kind, each.resource_id): each for each in (*machines(look), *resources(look))}
        orphans = {orphan.key: orphan for orphan in look.machines.orphans}
        there = {(each.kind, steps.key_of(each.id)): each for each in _listed(look)}
        ended = []
        for ref in wanted.resources:
            key = (ref.kind, ref.resource_id)
            view = made.get(key)
            answer = EndedView(kind=ref.kind, resource_id=ref.resource_id, name=view.name if view else "", done=False)
            ended.append(answer)
            if view is None:
                answer.done, answer.message = True, "it is gone already"
            elif not view.deletable:
                answer.message = view.why
            else:
                try:
                    if ref.kind == "instance":
                        await self._sweeps.end(look, orphans[ref.resource_id], user, f"cleaned up: {view.why}")
                        answer.done, answer.message = True, "the vendor ends it"
                    else:
                        answer.done, answer.message = await self._detach(look, there[key], user)
                except BackendError as error:
                    answer.message = error.message
        return ended

    async def forget(self, name: str, *, user: str) -> EndedView:
        """End the row of a machine because its user says so, where its account cannot be asked any more (R3).

        If the account comes back one day, its sweep finds and ends the machine.

        Raises NotFound; Conflict where the vendor can be asked, or may be soon.
        """
        account, row = await self._living(name)
        try:
            await self._sweeps.look(account)
        except (BackendUnreachable, RateLimited) as error:
            raise Conflict(f"{name} is not forgotten: {error.message}", hint="that may pass; then the vendor ends it") from None
        except BackendError as error:
            why = error.message
        else:
            raise Conflict(f"{name} is not forgotten: its vendor answers", hint="`%dstack stop` ends the run that has it")
        machine = await self._database.write(cloud_instances.forget, row.id, user, why)
        for kind, id in machine.concerned:
            self._wake(Key(kind, id))
        self._bus.publish_events()
        self._bus.publish_all()
        return EndedView(kind="instance", resource_id=row.id, name=name, done=True, message="forgotten")

    async def _living(self, name: str) -> tuple[AccountRow, LivingMachine]:
        """(the account of a machine that has not ended, its row as ``accounts.Known`` has it). Raises NotFound."""
        for account in await self._database.read(accounts.every):
            known = await self._database.read(accounts.known, account, [], [])
            for row in known.living:
                if row.identity == name and row.account in ("", account.account_id):
                    return account, row
        raise NotFound(
            f"no machine of this installation that has not ended is named {name!r}", hint="`%dstack cleanup` lists them"
        )

    async def _detach(self, look: Look, resource: CloudResource, user: str) -> tuple[bool, str]:
        """Remove a cloud resource. Its row is mended first: whoever needs the resource next makes it anew."""
        name = resource.identity

        def free(connection: Connection) -> bool:
            return accounts.free(connection, look.account, resource.kind, name)

        rows = [row for row in look.known.resources if row.kind == resource.kind and row.id == resource.id]
        if any(row.shared for row in rows) and not await self._database.write(free):
            return False, "a machine needs it by now"
        await self._sweeps.detach(look, resource, user)
        for row in rows:
            if not row.shared:
                await self._database.write(cloud_instances.detached, row.account, row.kind, row.identity)
        return True, "taken away"


def _listed(look: Look) -> list[CloudResource]:
    kept = [resource for resource, _ in look.resources.kept]
    return [*kept, *look.resources.orphans, *(resource for _, resource in look.resources.detach if resource is not None)]


def machines(look: Look) -> list[MadeView]:
    """Machines of an account: those that rows have, those that nobody needs, and rows of which the vendor lists none."""
    rows = {row.id: row for row in look.known.living}
    views = [_in_use(rows.pop(owner.id), machine) for machine, owner in look.machines.kept if owner.id in rows]
    views += [_orphan(orphan) for orphan in look.machines.orphans]
    return views + [_in_use(row, None) for row in rows.values() if row.account in ("", look.account.account_id)]


def _in_use(row: LivingMachine, machine: Instance | None) -> MadeView:
    ending = row.state == "terminating"
    return MadeView(
        kind="instance",
        resource_id=row.id,
        name=row.identity,
        standing="ending" if ending else "in use",
        state=str(row.state),
        raw_status=machine.raw_status if machine is not None else row.observed.raw_status,
        region=row.region,
        instance_type=row.instance_type,
        price=row.price,
        user=row.user or "",
        created_at=row.rented_at,
        console=machine.console if machine is not None else row.observed.console,
        why=row.message or ("" if machine is not None else "the vendor lists none yet"),
    )


def _orphan(orphan: steps.Orphan) -> MadeView:
    going = orphan.machine.status == "ending"
    why = WHY[orphan.verdict]
    if going:
        why = "the vendor is ending it"
    elif not orphan.due:
        why = f"{why}; it may be in the making elsewhere, so nobody ends it before {max(1.0, orphan.wait):.0f} s from now"
    return MadeView(
        kind="instance",
        resource_id=orphan.key,
        name=orphan.machine.identity,
        standing="left" if orphan.verdict == "unknown" and not going else "ending",
        raw_status=orphan.machine.raw_status,
        region=orphan.machine.region,
        price=orphan.owner.price if orphan.owner is not None else None,
        created_at=orphan.machine.created_at or None,
        console=orphan.machine.console,
        why=why,
        deletable=orphan.due and not going,
    )


def resources(look: Look) -> list[MadeView]:
    """Cloud resources. Shared ones are kept while the account has any machine."""
    living = len(look.known.living)
    views = []
    for resource, row in look.resources.kept:
        needed = living if row.shared else 1
        what = "; every machine here is made with it" if row.shared else ""
        why = f"{needed} machine{'s' if needed > 1 else ''} of this account need{'' if needed > 1 else 's'} it{what}"
        views.append(_resource(resource, "kept" if needed else "left", why if needed else "no machine needs it now", not needed))
    for resource in look.resources.orphans:
        old = look.known.orphans.get((resource.kind, steps.key_of(resource.id)))
        wait = steps.young_for(old.first_seen_at if old else None, 0.0, look.known.now, look.gate)
        why = "this installation's name, and no row of this store"
        if wait:
            why += f"; it may be in the making elsewhere, so nobody takes it away before {wait:.0f} s from now"
        views.append(_resource(resource, "left", why, not wait))
    gone = [(row, resource) for row, resource in look.resources.detach if resource is not None and row.ours]
    return views + [_resource(resource, "ending", "its machine has ended: the sweeps take it away", True) for _, resource in gone]


def _resource(resource: CloudResource, standing: Standing, why: str, deletable: bool) -> MadeView:
    return MadeView(
        kind=resource.kind,
        resource_id=steps.key_of(resource.id),
        name=resource.identity,
        standing=standing,
        why=why,
        deletable=deletable and resource.ours,
    )


def as_stored(account: AccountRow, known: accounts.Known) -> list[MadeView]:
    """What the store knows of an account that cannot be asked. Nothing of it can be ended now."""
    views = [_in_use(row, None) for row in known.living if row.account in ("", account.account_id)]
    for row in known.orphans.values():
        why = "seen before the account could not be asked any more"
        views.append(
            MadeView(
                kind=row.kind,
                resource_id=row.resource_id,
                name=row.identity,
                standing="left",
                raw_status=row.raw_status,
                region=row.region,
                price=row.price,
                why=why,
            )
        )
    made = (row for row in known.resources if row.id and row.account == account.account_id)
    resources = (CloudResource(row.kind, row.identity, row.id, row.ours) for row in made)
    return views + [_resource(resource, "kept", "as of the last word of the vendor", False) for resource in resources]
