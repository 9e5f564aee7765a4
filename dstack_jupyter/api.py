"""The Python functions behind ``%dstack``: the same names, the same words, usable in any program.

Everything here is synchronous and returns objects; what shows things is in ``magics`` and ``display``.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from .client import Client, Log, Run, connect, frames
from .models.errors import ConfigurationError
from .models.runs import ApplyRequest, CodeRef, Context, Plan, PlanRequest

if TYPE_CHECKING:
    import pandas

    from .backends.config.check import Checked
    from .backends.found import Found
    from .models.cleanup_view import AccountView, EndedView, MadeView
    from .models.configurations import AnyRun
    from .models.fleets import FleetConfiguration
    from .models.fleets_view import FleetPlan, FleetRequest, FleetView
    from .models.status import Status
    from .offers.asked import Asked

__all__ = [
    "Client",
    "Log",
    "Run",
    "apply",
    "apply_fleet",
    "backends",
    "check",
    "clean",
    "cleanup",
    "connect",
    "delete_fleet",
    "events",
    "find_offers",
    "fleets",
    "forget_machine",
    "logs",
    "machines",
    "offers",
    "permissions",
    "plan",
    "plan_fleet",
    "ps",
    "run",
    "status",
    "stop",
]


REFRESH = 60.0
"""Seconds that a query waits at most when it is told to wait."""


def offers(
    *, max_offers: int | None = None, group_by: str | None = None, refresh: bool = False, **asked: Unpack[Asked]
) -> pandas.DataFrame:
    """Every offer that fits, cheapest first. Needs no engine. Raises ConfigurationError, NotFound.

    What can be asked for: ``offers.asked.Asked``. Columns: ``offers.table.COLUMNS``. ``df.attrs``: ``missing`` (for each backend
    without a row why), ``notes`` (on backends with rows), ``empty`` (why there is no row), ``query``, ``total_offers``.
    ``group_by``: one row a group, such as ``gpu,backend``. ``refresh`` waits until every backend has answered or failed.
    """
    return find_offers(refresh=refresh, **asked).frame(max_offers, group_by)


def find_offers(*, refresh: bool = False, **asked: Unpack[Asked]) -> Found:
    """As ``offers``, without pandas: what is found can become a frame, JSON or groups."""
    from .backends.collect import collect
    from .offers.asked import requirements

    return collect(requirements(asked), seconds=REFRESH if refresh else 0.0, catalog=True)


def load(text: str, *, file: str = "", first_line: int = 1) -> AnyRun | FleetConfiguration:
    """What can be applied, from YAML, with variables that it only names taken from this process's environment.

    Raises ConfigurationError, NotSupportedYet for what is understood but not built.
    """
    from .models.configurations import runnable
    from .models.yaml_source import load_configuration

    configuration = load_configuration(text, file=file, env=os.environ, first_line=first_line)
    return configuration if configuration.type == "fleet" else runnable(configuration)


def plan(task: AnyRun, *, project: str = "main", max_offers: int = 3) -> Plan:
    """What ``apply`` would do and cost. Raises ConfigurationError, NotSupportedYet."""
    return connect().plan(PlanRequest(configuration=task.given(), project=project, max_offers=max_offers))


def apply(task: AnyRun | str | Path, *, project: str = "main", base: Path | None = None, name: str | None = None) -> Run:
    """Submit a run (a configuration, YAML text, or the path of a YAML file) and return its handle at once. Never asks.

    Relative paths in it begin at ``base``: the file's folder, or the current one. Raises ConfigurationError, NotSupportedYet,
    NotFound, LimitExceeded, Conflict, StorageFull.
    """
    from .client.pack import pack_task
    from .models.yaml_reader import read_file

    if isinstance(task, Path):
        base = base or task.parent
        configuration = load(read_file(task), file=str(task))
    else:
        configuration = load(task) if isinstance(task, str) else task
    if configuration.type == "fleet":
        raise ConfigurationError("a fleet is no run", hint="use api.apply_fleet")
    if name is not None:
        configuration.name = name
    client = connect()
    packed = pack_task(configuration, base or Path.cwd())
    try:
        for archive in packed:
            client.upload(archive.path, archive.sha256)
    finally:
        for archive in packed:
            archive.path.unlink(missing_ok=True)
    return client.apply(
        ApplyRequest(
            configuration=configuration.given(),
            project=project,
            request_key=secrets.token_hex(16),
            code=[CodeRef(sha256=archive.sha256, path=archive.dest) for archive in packed],
            registry_password=_registry_password(configuration),
            context=Context(cwd=str(base or Path.cwd()), python=sys.executable, session=_session()),
        )
    )


def _registry_password(configuration: AnyRun) -> str:
    """The password of ``registry_auth``, with a ``${{ env.NAME }}`` taken from this process. Raises ConfigurationError."""
    if configuration.registry_auth is None:
        return ""
    password = configuration.registry_auth.password.reveal()
    named = re.fullmatch(r"\s*\$\{\{\s*env\.([A-Za-z_][A-Za-z0-9_]*)\s*\}\}\s*", password)
    if named is None:
        return password
    if named[1] not in os.environ:
        raise ConfigurationError(f"registry_auth names the variable {named[1]}, which is not set here")
    return os.environ[named[1]]


def apply_fleet(fleet: FleetConfiguration | str | Path, *, project: str = "main", base: Path | None = None) -> FleetView:
    """Apply a fleet (a configuration, YAML text, or a file's path). Its hosts are reached, its machines rented afterwards.

    That costs money, unasked. Relative paths of keys begin at ``base``: the file's folder, or the current one. Raises
    ConfigurationError, NotSupportedYet, Conflict.
    """
    return connect().apply_fleet(_fleet_request(fleet, project, base))


def plan_fleet(fleet: FleetConfiguration | str | Path, *, project: str = "main", base: Path | None = None) -> FleetPlan:
    """What ``apply_fleet`` would rent at once, and for how much. Raises ConfigurationError, NotSupportedYet."""
    return connect().plan_fleet(_fleet_request(fleet, project, base))


def _fleet_request(fleet: FleetConfiguration | str | Path, project: str, base: Path | None) -> FleetRequest:
    from .models.fleets_view import FleetRequest
    from .models.yaml_reader import read_file

    if isinstance(fleet, Path):
        base = base or fleet.parent
        configuration = load(read_file(fleet), file=str(fleet))
    else:
        configuration = load(fleet) if isinstance(fleet, str) else fleet
    if configuration.type != "fleet":
        raise ConfigurationError(f"a {configuration.type} is no fleet", hint="use api.apply")
    where = str((base or Path.cwd()).absolute())
    return FleetRequest(configuration=configuration.given(), project=project, base=where)


def fleets(*, project: str = "main", rented: bool = True) -> pandas.DataFrame:
    """The machines of all fleets, one a row: fleet, host, state, runs, backend, instance_type, price, cost, cpus, …, message.

    ``rented``: also those that are rented, in the fleets that runs make for themselves too.
    """
    client = connect()
    return frames.of_fleets(client.fleets(project), client.machines(project) if rented else [])


def machines(*, project: str = "main", all: bool = False) -> pandas.DataFrame:
    """Rented machines, oldest first, one a row; with ``all`` those that ended in the last day too.

    identity, fleet, runs, backend, region, instance_type, spot, state, stuck, stuck_since, price ($/h), cost ($), guard, user,
    created, rented, ending, finished, message, console, id. A price or cost that is not known is NaN.
    """
    return frames.of_machines(connect().machines(project, all=all))


def status(*, project: str = "main") -> Status:
    """Everything at one look: the engine, backends in trouble, rented machines and what they cost, what does not get on."""
    from .models.status import Status

    client = connect()
    troubled = [view for view in client.backends() if view.configured and (view.last_error or view.status == "in trouble")]
    runs = [each.view for each in client.runs(project)]
    return Status(time.time(), client.info(), troubled, client.machines(project), runs)


def delete_fleet(name: str, *, project: str = "main") -> None:
    """Give all hosts of a fleet back, end all its rented machines. Raises NotFound, Conflict while one runs a job."""
    connect().delete_fleet(name, project)


def cleanup() -> list[AccountView]:
    """Everything that this installation ever made in accounts at vendors, who is asked now: machines and things beside them, each
    with what has it, what it costs, and whether ``clean`` can end it."""
    return connect().cleanup()


def clean(account: AccountView, made: Sequence[MadeView]) -> list[EndedView]:
    """End what of ``made`` nobody needs; the vendor is asked anew whether that is so. Raises BackendError."""
    from .models.cleanup_view import CleanupRequest, ResourceRef

    resources = [ResourceRef(kind=each.kind, resource_id=each.resource_id) for each in made]
    return connect().clean(CleanupRequest(account=account.account_id, resources=resources))


def forget_machine(name: str) -> EndedView:
    """Count a machine as ended although no vendor says so: its account cannot be asked any more. It may go on to cost money.

    ``name`` is its name at the vendor. Raises NotFound; Conflict where the vendor can be asked.
    """
    return connect().forget_machine(name)


def _session() -> str:
    return os.environ.get("JPY_SESSION_NAME", "")


def run(ref: str, *, project: str = "main") -> Run:
    """One run by name (the newest of that name) or id. Raises NotFound."""
    return connect().run(ref, project)


def logs(ref: str, *, project: str = "main", job: int = 0) -> Log:
    """Everything stored of a run's log; ``job`` is the node's number."""
    return run(ref, project=project).logs(job)


def stop(ref: str, *, project: str = "main", abort: bool = False) -> Run:
    """Ask a run to end; returns at once."""
    return run(ref, project=project).stop(abort)


def ps(*, project: str = "main", all: bool = False, last: int | None = None) -> pandas.DataFrame:
    """Runs, newest first: name, state, backend, instance_type, price, cost, submitted, finished, exit_code, message, user, id.

    ``price`` is $/h of the machines that a run has or had last, ``cost`` what it has cost by now; NaN where that is not known.
    """
    return frames.of_runs([each.view for each in connect().runs(project, all=all, last=last)])


def backends(*, project: str = "main") -> pandas.DataFrame:
    """Every backend, one a row: kind, configured, identity, credentials, permissions, regions, last_error, … Needs no engine."""
    import pandas as pd

    from .backends import overview

    frame = pd.DataFrame([view.model_dump() for view in overview.views(project)])
    frame["regions"] = [", ".join(regions) for regions in frame["regions"]]
    return frame


def permissions(name: str, *, project: str = "main") -> pandas.DataFrame:
    """Each right of a backend: granted, missing, not needed with this configuration, or unknown. Raises NotFound."""
    import pandas as pd

    from .backends import overview
    from .models.backends import PermissionView

    rights = overview.rights(name, project)
    return pd.DataFrame([right.model_dump() for right in rights], columns=list(PermissionView.model_fields))


def check(path: Path | str, *, text: str | None = None, first_line: int = 1) -> Checked:
    """Check a configuration of any kind: a file, or ``text`` under the name ``path``. Raises NotFound, LimitExceeded."""
    from .backends.config.check import check as check_any

    if text is not None:
        return check_any(text, file=str(path), env=os.environ, first_line=first_line)
    return check_any(Path(path).expanduser(), env=os.environ)


def events(*, project: str = "main", run: str = "", after: int = 0, last: int = 100) -> pandas.DataFrame:
    """The event log: seq, time, actor, kind, name, action, message, id."""
    import pandas as pd

    rows = connect().events(project, after=after, limit=last, run=run)
    columns = ["seq", "time", "actor", "kind", "name", "action", "message", "id"]
    frame = pd.DataFrame([event.model_dump() for event in rows], columns=["at", *columns])
    frame["time"] = pd.to_datetime(frame["at"].astype("float64"), unit="s", utc=True)
    return frame[columns]


def doctor(*, start: bool = True) -> list[dict[str, Any]]:
    """Checks of this installation: ``[{check, ok, message, hint}]``; ``ok`` is None for what could not be asked.

    ``start``: begin an engine if none runs. A broken engine is a finding, no error.
    """
    from .doctor import report
    from .models.home import Home

    return report.examine(Home.default(), start=start)


def fix() -> list[str]:
    """Mend what is safe to mend: what only you should use, others cannot any more. Returns what was done."""
    from .doctor import files
    from .models.home import Home

    return files.fix(Home.default())


def rotate_key() -> dict[str, Any]:
    """Seal the store with a new key and forget the old one: ``{key, forgotten, values}``. May be cut off and repeated."""
    return connect().rotate_key()


def to_json(value: Any) -> str:
    """JSON of a frame (a list of rows), a run, a log or plain data."""
    if hasattr(value, "to_json"):
        return json.dumps(json.loads(value.to_json(orient="records", date_format="iso")), indent=2)
    if isinstance(value, Run):
        return value.view.model_dump_json(indent=2)
    if isinstance(value, Log):
        return json.dumps({"run": value.run, "text": value.text, "gaps": value.gaps}, indent=2)
    return json.dumps(value, indent=2, default=str)
