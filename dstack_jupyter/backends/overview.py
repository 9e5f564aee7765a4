"""One row a backend: what it is, whether it is configured, and what stands in the way. Calls no vendor; needs no engine."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterable

from ..models.backends import BackendView, PermissionView
from ..models.durations import format_duration
from ..models.errors import BackendError, BadCredentials, DstackJupyterError
from ..offers import snapshot
from . import live, registry
from .base import Clouds
from .boundary import vendor_errors
from .config.account import Account, account_of, wanted
from .config.base import BackendConfig
from .config.configured import Configured, configured


def views(project: str = "main") -> list[BackendView]:
    """Every backend of the page, and those of newer releases that are configured here."""
    known = configured()
    names = [*registry.entries, *(name for name in known.backends(project) if name not in registry.entries)]
    return [_view(name, known, project) for name in names]


def _view(name: str, known: Configured, project: str) -> BackendView:
    entry = registry.entries.get(name)
    title, kind = (entry.title, entry.kind) if entry is not None else (name, "vm")
    config, fault = known.backends(project).get(name), known.faults(project).get(name)
    view = BackendView(backend=name, kind=kind, configured=config is not None or fault is not None)
    if fault is not None:
        view.last_error, view.hint = str(fault), "mend it there; `%dstack check` tells all faults"
    if config is not None:
        view.identity, view.regions = config.identity(), list(config.regions or ())
    if name == "dstack":
        view.status, view.message = "not available", f"{title}: the hosted marketplace is not available here"
    elif entry is None or not entry.module:
        view.status, view.message, view.hint = (
            "not supported yet",
            f"{title}: not supported yet",
            view.hint or f"comes with a later version; {registry.built()} work today",
        )
    if view.status == "not supported yet" and name in snapshot.SHIPPED:
        newest = snapshot.dates(snapshot.shipped(name))[-1]
        age = time.time() - calendar.timegm(time.strptime(newest, "%Y-%m-%d"))
        view.price_source, view.price_age_days = f"list prices of {newest}", float(age // 86400)
    if entry is not None and entry.module:
        _ask(name, title, view)
    return view


def _ask(name: str, title: str, view: BackendView) -> None:
    """Fill in what a backend that is built says of itself. Of a vendor only known facts are shown: a list must not wait."""
    try:
        with vendor_errors(name):
            backend = registry.load(name)
            if isinstance(backend, Clouds) and not view.configured:
                view.status, view.message = "not configured", f"{title}: not configured"
                view.hint = f"`%dstack backends help {name}`"
                return
            known, errors = live.ask([name])
            if name in errors:
                raise errors[name]
            _, answer = known[name]
            regions = answer.table.rows.text["region"].words if answer.table is not None and len(answer.table) else []
            if isinstance(backend, Clouds):
                view.price_source = "the vendor's API"
                view.price_age_days = round(answer.age / 86400, 3) if answer.table is not None else None
                _remember(name, title, view, backend)
            else:
                view.credentials = "none needed" if view.kind == "local" else "valid" if regions else "unknown"
                view.permissions = _complete(backend.check())
                view.price_source = "no price: machines of your own"
                view.configured = bool(regions)
            if answer.error:
                raise BackendError(answer.error, hint=answer.hint)
    except DstackJupyterError as error:
        view.status, view.last_error, view.hint = "in trouble", error.message, error.hint
        view.message = f"{title}: {error.message}"
        if isinstance(error, BadCredentials):
            view.credentials = "invalid"
        return
    view.regions = sorted(region for region in regions if region)
    if view.status != "in trouble":
        view.status = "ready" if view.configured else "not configured"
        view.message = f"{title}: {view.status}"
    if not view.configured:
        view.hint = f"`%dstack backends help {name}`"


def _complete(rights: Iterable[PermissionView]) -> str:
    required = [right for right in rights if right.level == "required"]
    for status in ("missing", "unknown"):
        if named := [right.permission for right in required if right.status == status]:
            return f"{status}: {', '.join(named)}"
    return "complete"


def _remember(name: str, title: str, view: BackendView, backend: Clouds) -> None:
    """Fill in what the last check of an account found."""
    last = backend.checked()
    if last is None:
        view.hint = f"`%dstack backends check {name}` looks at the key and its rights"
        return
    rows, age = last
    login, rights = rows[0], rows[1:]
    view.credentials = {"granted": "valid", "missing": "invalid"}.get(login.status, "unknown")  # type: ignore[assignment]
    view.permissions = f"{_complete(rights)} ({format_duration(age, rough=True)} ago)"
    if login.status == "granted":
        view.identity = "; ".join(part for part in (login.hint, view.identity) if part)
    wrong = next((row for row in rows if row.status == "missing" and row.level == "required"), None)
    if wrong is not None:
        view.status, view.last_error, view.hint = "in trouble", f"{wrong.permission}: missing", wrong.hint
        view.message = f"{title}: {wrong.permission} is missing"


def rights(name: str, project: str = "main") -> list[PermissionView]:
    """Each permission of a backend: granted, missing, unknown, or not needed with this configuration.

    Raises NotFound for a name that nobody knows.
    """
    name, account = account_of(name)
    config = configured().backends(project).get(name)
    entry = registry.entries.get(name)
    if entry is not None and entry.module:
        with vendor_errors(name):
            return registry.load(name).check()
    needed = {each.name for each in wanted(account, config)}
    unknown = f"this version cannot ask the vendor yet; `%dstack backends policy {name}` holds what to add"
    return [
        PermissionView(
            backend=name,
            permission=each.name,
            level=each.level,
            purpose=each.purpose,
            status="unknown" if each.name in needed else "not needed",
            hint=unknown if each.name in needed else f"only for {each.purpose}",
            on_the_page=each.page,
        )
        for each in account.permissions
    ]


def policy(name: str, project: str = "main") -> str:
    """The minimal policy for the configuration that there is, ready to load; what to tick where keys have no policy."""
    name, account = account_of(name)
    config = configured().backends(project).get(name)
    return policy_of(account, config)


def policy_of(account: Account, config: BackendConfig | None) -> str:
    """As ``policy``, of an account's side and a configuration."""
    return account.policy(config, wanted(account, config)) if account.policy is not None else account.no_policy


def help_lines(name: str) -> Iterable[str]:
    """How to log in, for each way there is: steps, the vendor's own commands, what else the account needs."""
    name, account = account_of(name)
    entry = registry.entries.get(name)
    yield f"{entry.title if entry is not None else name}"
    for variant, guide in account.guides.items():
        yield ""
        yield f"creds.type: {variant}" if variant not in ("none", "key", "kubeconfig") else "how to log in"
        yield from (f"  {number}. {step}" for number, step in enumerate(guide.steps, 1))
        yield from (f"     $ {command}" for command in guide.commands)
    if account.more:
        yield ""
        yield "also"
        yield from (f"  - {line}" for line in account.more)
    yield ""
    yield f"rights: {'`%dstack backends policy ' + name + '` prints what is needed' if account.policy else account.no_policy}"
