"""``%dstack cleanup``: what this installation has in accounts at vendors, and the end of what nobody needs."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from .. import api
from ..display import ansi
from ..display.html import table
from ..display.words import price
from ..models.errors import BackendError, ConfirmationNeeded
from .frontend import Frontend, Report, Result

if TYPE_CHECKING:
    from ..models.cleanup_view import AccountView, MadeView

PATIENCE = 120.0
"""Seconds for which machines that are ended are waited for; their vendors go on without us."""
AT_ONCE = 20
"""Things that one request ends: each is a call to a vendor."""
AGAIN = 3.0
"""Seconds between two looks at machines that are going: each is a list of the account."""
HEAD = ("account", "what", "name", "is", "price", "used by", "why")


def cleanup(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    """Exit code 1 if an account could not be asked, or if something was to be ended and stands."""
    if args.forget:
        return _forget(args.forget, frontend, ask=not args.yes)
    accounts = api.cleanup()
    if not args.delete:
        return _result(accounts)
    chosen = [(account, [each for each in account.made if each.deletable]) for account in accounts]
    chosen = [(account, made) for account, made in chosen if made]
    if not chosen:
        frontend.say("there is nothing that could be ended")
        return _result(accounts)
    count = 0
    for account, made in chosen:
        for each in made:
            count += 1
            frontend.say(f"  {_place(account)}: {_line(each)}")
    if not args.yes and not frontend.ask(f"End {'this' if count == 1 else f'these {count}'} for good?"):
        raise ConfirmationNeeded("nothing was ended", hint="`%dstack cleanup` lists what there is")
    stands = 0
    for account, made in chosen:
        stands += _end(account, made, frontend)
    left = _wait(chosen, frontend)
    return _result(left, failed=stands > 0)


def _forget(name: str, frontend: Frontend, *, ask: bool) -> Result:
    frontend.say(f"{ansi.strip(name)}: nobody will look for this machine any more, and if it is there it goes on to cost money.")
    frontend.say("End it in the vendor's console first.")
    if ask and not frontend.ask("Forget it?"):
        raise ConfirmationNeeded("nothing was forgotten", hint="`%dstack cleanup` lists what there is")
    api.forget_machine(name)
    frontend.say("forgotten")
    return _result(api.cleanup())


def _end(account: AccountView, made: list[MadeView], frontend: Frontend) -> int:
    """End things of one account, machines first: keys and networks go after those that hold them. Returns how many stand."""
    made = sorted(made, key=lambda each: each.kind != "instance")
    stands = 0
    for begin in range(0, len(made), AT_ONCE):
        part = made[begin : begin + AT_ONCE]
        try:
            answers = api.clean(account, part)
        except BackendError as error:
            frontend.say(f"{_place(account)}: {error.message}")
            return stands + len(made) - begin
        for answer in answers:
            stands += not answer.done
            frontend.say(f"{_place(account)}: {answer.kind} {answer.name}: {answer.message}")
    return stands


def _wait(chosen: list[tuple[AccountView, list[MadeView]]], frontend: Frontend) -> list[AccountView]:
    """Until the vendors list the machines no more; what there is then."""
    going = {(account.account_id, each.resource_id) for account, made in chosen for each in made if each.kind == "instance"}
    deadline = time.monotonic() + PATIENCE
    while True:
        accounts = api.cleanup()
        there = {(account.account_id, each.resource_id) for account in accounts for each in account.made} & going
        if not there or time.monotonic() > deadline:
            return accounts
        frontend.say(f"{len(there)} machine{'s' if len(there) > 1 else ''} on the way out")
        time.sleep(AGAIN)


def _place(account: AccountView) -> str:
    return account.backend if account.project == "main" else f"{account.backend} ({account.project})"


def _line(made: MadeView) -> str:
    said = f" ({made.raw_status})" if made.raw_status else ""
    cost = f", {price(made.price)}" if made.kind == "instance" else ""
    # Names and words are the vendor's: no control sequences of theirs reach a terminal.
    return ansi.strip(f"{made.kind} {made.name}{said}{cost}: {made.why or made.standing}").replace("\n", " ")


def _result(accounts: list[AccountView], *, failed: bool = False) -> Result:
    lines: list[str] = []
    rows: list[tuple[str, ...]] = []
    for account in accounts:
        place = _place(account)
        lines.append(f"{place}: {'nothing of ours' if not account.made and not account.problem else ''}".rstrip(": "))
        if account.problem:
            hint = f" → {account.hint}" if account.hint else ""
            lines.append(f"  cannot be asked: {account.problem}{hint}")
            rows.append((place, "", "", "cannot be asked", "", "", f"{account.problem}{hint}"))
            if any(each.kind == "instance" and each.state for each in account.made):
                lines.append("  if this account is gone for good: end its machines there, then `%dstack cleanup --forget NAME`")
        for each in account.made:
            cost = price(each.price) if each.kind == "instance" else ""
            by = f", for {each.user}" if each.user else ""
            lines.append(f"  {each.standing:<7} {_line(each)}{by}")
            rows.append((place, each.kind, each.name, each.state or each.standing, cost, each.user, each.why))
    if not accounts:
        lines.append("this installation never made anything at a vendor")
    lines += _cost([each for account in accounts for each in account.made if each.kind == "instance"])
    left = sum(each.deletable for account in accounts for each in account.made)
    if left:
        lines.append(f"{left} of this can be ended: `%dstack cleanup --delete`")
    data = [account.model_dump(mode="json") for account in accounts]
    bad = failed or any(account.problem for account in accounts)
    return Result(Report(lines, data, table(HEAD, rows) if rows else ""), code=1 if bad else 0)


def _cost(machines: list[MadeView]) -> list[str]:
    """What the machines cost together, as far as that is known."""
    if not machines:
        return []
    known = [each.price for each in machines if each.price is not None]
    count = f"{len(machines)} machine{'s' if len(machines) > 1 else ''}"
    if not known:
        return [f"{count} of which the price is not known"]
    more = f", and {len(machines) - len(known)} of them more, whose price is not known" if len(known) < len(machines) else ""
    return [f"{count}, {price(sum(known))} together{more}"]
