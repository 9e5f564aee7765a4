"""What `%dstack doctor` examines on the engine's side: the store, its key, clocks, hosts, and what is stuck."""

from __future__ import annotations

import asyncio
import shlex
import stat
import sys
import time
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DatabaseError

from ...models.durations import format_duration
from ...models.errors import DstackJupyterError
from ...models.findings import Finding, finding
from ...models.home import Home
from ..keys.identity_files import path_of
from ..keys.vault import Vault
from ..runtime import location
from ..store import accounts, hosts, leases, migrate, sealed
from ..store.columns import now
from ..store.database import Database
from ..store.schema import SEALED_TABLES
from ..store.schema import leases as table

CLOCK = 5.0
"""Seconds that two clocks may differ: beyond that, shown times and guards are wrong."""
OLD_KEY = 365 * 86400.0


class HasMessage(Protocol):
    @property
    def message(self) -> str: ...


async def examine(database: Database, vault: Vault, home: Home, problems: Sequence[HasMessage]) -> list[Finding]:
    """Every check has an entry, whether it passed or not."""
    return [
        finding("engine", True, f"answers, on Python {sys.version.split()[0]}"),
        *await _asked("store", database.read_aside(_store)),
        *await _asked("lease", database.read_aside(_lease)),
        *await _asked("key", database.read_aside(_key, vault)),
        *await _asked("clock", database.read_aside(_clocks)),
        *await _asked("hosts", _hosts(database, home)),
        *await _asked("accounts", database.read_aside(_accounts)),
        _work(problems),
    ]


async def _asked(check: str, answer: Awaitable[list[Finding]]) -> list[Finding]:
    """A check that fails must not hide the others: a store may be damaged in one place only."""
    try:
        return await answer
    except (DatabaseError, ValueError) as error:
        reason = str(error.orig) if isinstance(error, DatabaseError) else type(error).__name__
        return [finding(check, False, f"could not be asked: {reason}", "what `store` says comes first")]
    except DstackJupyterError as error:
        return [finding(check, False, error.message, error.hint)]


def _store(connection: Connection) -> list[Finding]:
    sqlite = connection.dialect.name == "sqlite"
    integrity = connection.execute(text("PRAGMA quick_check(1)")).scalar() if sqlite else "ok"
    revision = migrate.current(connection)
    kind = "SQLite" if sqlite else "PostgreSQL"
    return [
        finding(
            "store",
            integrity == "ok" and revision == migrate.HEAD,
            f"{kind}, integrity {integrity}, schema {revision} (this version: {migrate.HEAD})",
            "copy the store aside before anything else, then report this",
        )
    ]


def _lease(connection: Connection) -> list[Finding]:
    """Who acts: one lease for a SQLite store, one per fleet in a shared store; and how old each engine's last report is."""
    engines = [_engine(each) for each in leases.heard(connection)]
    rows = connection.execute(select(table.c.owner, table.c.resource, (table.c.expires_at - now()).label("left"))).all()
    held = [row for row in rows if row.owner and row.left > 0]
    owners = sorted({row.owner for row in held})
    stale = [row.resource for row in rows if row.owner and row.left <= 0]
    message = f"{', '.join(owners)} for {len(held)} resources" if owners else "nobody acts at the moment"
    if stale:
        hint = "another engine takes over within seconds; if not, see engine.log"
        return [finding("lease", False, f"{message}; {len(stale)} leases ran out without being let go", hint), *engines]
    return [finding("lease", True, message), *engines]


def _engine(engine: leases.Heard) -> Finding:
    """An engine that shares the store. Each engine reports every few seconds (``leasing.BEAT``), with or without work."""
    where = f"the engine on {location.name_of(engine.place)} ({engine.owner})"
    message = f"{where} acts for {engine.held} fleets; its last word is {format_duration(engine.silent, rough=True)} old"
    if engine.silent <= leases.TTL:
        return finding("lease", True, message)
    hint = (
        "start its Jupyter server again, or if that runs: see engine.log there, kill -CONT if it is stopped, kill -9 if it hangs"
    )
    if engine.run_out:
        message += f", and {engine.run_out} of its leases have run out"
        hint += "; what is not bound to its machine another engine takes within seconds, jobs on `local` there wait for it"
    else:
        hint += "; if it is gone for good nothing is lost, and it is forgotten after an hour"
    return finding("lease", False, message, hint)


def _accounts(connection: Connection) -> list[Finding]:
    """Accounts at vendors as their last sweeps found them; nobody is asked."""
    findings = []
    for account in accounts.every(connection):
        name = account.backend if account.project == "main" else f"{account.backend} ({account.project})"
        left = accounts.left(connection, account.account_id)
        if account.problem:
            hint = "machines of ours there cannot be seen or ended until it can be asked; `%dstack cleanup` shows what is known"
            findings.append(finding("accounts", False, f"{name} cannot be asked: {account.problem}", hint))
        elif left:
            hint = "`%dstack cleanup` lists it, `%dstack cleanup --delete` ends it"
            message = f"{name} has {left} machine{'s' if left > 1 else ''} of our names that no row needs: it may cost money"
            findings.append(finding("accounts", False, message, hint))
        else:
            findings.append(finding("accounts", True, f"{name}: nothing stands there that nobody needs"))
    return findings or [finding("accounts", True, "no vendor was ever asked to make anything")]


def _key(connection: Connection, vault: Vault) -> list[Finding]:
    keys = vault.load()
    foreign = sealed.count_foreign(connection, SEALED_TABLES, vault.sealing)
    old = time.time() - keys[0].made
    message = f"{keys[0].id} in {vault.place}, made {format_duration(old, rough=True)} ago"
    rotate = "`%dstack doctor --rotate-key`"
    if foreign or (len(keys) > 1 and connection.dialect.name == "sqlite"):
        return [finding("key", False, f"{message}: a rotation was cut off, {foreign} values have an older key", rotate)]
    if old > OLD_KEY:
        return [finding("key", False, f"{message}: older than a year", rotate)]
    return [finding("key", True, f"{message}; keep a copy: without it what is sealed is lost")]


def _clocks(connection: Connection) -> list[Finding]:
    ahead = connection.execute(select(now())).scalar_one() - time.time()
    fault = abs(ahead) > CLOCK
    hint = "set the clocks by NTP: timedatectl set-ntp true"
    findings = [finding("clock", not fault, f"{_off(ahead)} the database's" if fault else "agrees with the database's", hint)]
    for row in hosts.living(connection):
        off = row.data.clock_ahead
        if abs(off) > CLOCK:
            findings.append(finding("clock", False, f"{row.instance_type}: {_off(off)} this machine's", hint))
    return findings


def _off(ahead: float) -> str:
    return f"{format_duration(abs(ahead), rough=True)} {'ahead of' if ahead > 0 else 'behind'}"


async def _hosts(database: Database, home: Home) -> list[Finding]:
    """Hosts that cannot be used, and key files of theirs that others can read."""
    rows = await database.read_aside(hosts.living)
    findings = [finding("hosts", False, f"{row.instance_type}: {row.message}", _hint(row)) for row in rows if row.message]
    files = {path_of(row.data.address["identity_file"], home) for row in rows if row.data.address is not None} - {""}
    findings += await asyncio.to_thread(_key_files, sorted(files))
    return findings or [finding("hosts", True, f"{len(rows)} of {len(rows)} can be used" if rows else "there are none")]


def _hint(row: Any) -> str:
    return f"it is tried again by itself; `%dstack fleets` shows all of {row.region}"


def _key_files(files: Sequence[str]) -> list[Finding]:
    findings = []
    for name in files:
        try:
            mode = stat.S_IMODE(Path(name).expanduser().stat().st_mode)
        except OSError as error:
            hint = "name another identity_file"
            findings.append(finding("hosts", False, f"the key {name} cannot be read: {error.strerror}", hint))
            continue
        if mode & 0o077:
            findings.append(
                finding("hosts", False, f"others can read the key {name}, so it is not used", f"chmod 600 {shlex.quote(name)}")
            )
    return findings


def _work(problems: Sequence[HasMessage]) -> Finding:
    if not problems:
        return finding("work", True, "nothing is stuck")
    return finding("work", False, "; ".join(sorted({p.message for p in problems})), "see `%dstack events` and engine.log")
