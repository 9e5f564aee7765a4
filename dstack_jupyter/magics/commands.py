"""What each command does: one function per noun, from parsed arguments to an object. Shared by cells and the command line."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import api
from ..client import Run, connect
from ..display.words import attachment_lines, fleet_line, fleet_plan_line, host_line, plan_line, price
from ..models.errors import ConfigurationError, ConfirmationNeeded, Conflict, NoCapacity, RunFailed, Unreachable
from ..models.frames import Frame, RunFrame
from ..models.money import format_dollars
from ..models.states import Reason, RunState
from . import cleaning, configuring, watching
from .frontend import Frontend, Report, Result

if TYPE_CHECKING:
    from ..models.configurations import AnyRun
    from ..models.fleets import FleetConfiguration
    from ..models.runs import Plan

LAST_LINES = 20
EVENT_COLUMNS = ("time", "actor", "kind", "name", "action", "message")
HOST_COLUMNS = (
    "fleet", "host", "state", "stuck", "runs", "backend", "instance_type", "price", "cost", "cpus", "memory_gb", "gpu_name",
    "gpu_count", "message",
)  # fmt: skip
FLEET_LOOK = 0.5
"""Seconds between two looks at a fleet whose machines are being made."""
FLEET_PATIENCE = 60.0
"""Seconds that `apply` waits for the hosts of a fleet; they are tried on after that."""


SHOWN = 50
"""Offers that a shell prints when nobody says how many."""


def offers(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    from ..display.offers import beside_html, beside_text, groups_text, offers_text

    result = api.find_offers(
        gpu=args.gpu,
        cpu=args.cpu,
        memory=args.memory,
        disk=args.disk,
        backends=args.backend,
        regions=args.region,
        zones=args.zone,
        instance_types=args.instance_type,
        spot_policy=args.spot_policy,
        max_price=args.max_price,
        refresh=args.refresh,
    )
    if args.json:
        return Result(Report([], result.json(args.max_offers, args.group_by)))
    beside = result.missing, result.notes, result.empty
    frontend.below(beside_text(*beside), beside_html(*beside))
    if frontend.holds_objects:
        return Result(result.frame(args.max_offers, args.group_by))
    most = SHOWN if args.max_offers is None else args.max_offers
    if args.group_by is not None:
        groups = result.groups(args.group_by)
        first = {name: values[:most] for name, values in groups.items()}
        return Result(Report(groups_text(first, len(groups["offers"])), None))
    return Result(Report(offers_text(result.rows.first(most).lists(), len(result.rows)), None))


def apply(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    task, base = _configuration(args, body)
    if task.type == "fleet":
        return _apply_fleet(task, base, args, frontend)
    plan = api.plan(task, project=args.project, max_offers=args.max_offers)
    _tell(frontend)
    if task.name is not None and plan.active_run:
        # Submitting says so too, but code need not be packed and sent to learn it.
        raise _active(connect().run(plan.active_run, args.project))
    if not plan.offers:
        hints = "; ".join(line.hint for line in plan.missing if line.hint)
        raise NoCapacity(plan_line(plan), hint=hints or "`%dstack offers` shows what there is and which filter removed it")
    _confirm(plan, frontend, yes=args.yes)
    task.name = plan.run_name
    run = api.apply(task, project=args.project, base=base)
    if args.detach:
        frontend.say(f"run {run.name} was submitted; `%dstack attach {run.name}` follows it")
        return Result(run)
    return _follow(run, frontend)


def _apply_fleet(fleet: FleetConfiguration, base: Path, args: argparse.Namespace, frontend: Frontend) -> Result:
    """Apply a fleet and wait until each host can be used or says why not. Raises Unreachable if none can."""
    if fleet.nodes is not None:
        return _apply_cloud_fleet(fleet, args, frontend)
    view = api.apply_fleet(fleet, project=args.project, base=base)
    frontend.say(f"fleet {view.name}: reaching {len(view.hosts)} hosts")
    told: set[str] = set()
    deadline = time.monotonic() + FLEET_PATIENCE
    while not args.detach and time.monotonic() < deadline:
        for host in view.hosts:
            if host.id not in told and (host.message or host.state != "pending"):
                told.add(host.id)
                frontend.say(f"  {host_line(host)}")
        if len(told) == len(view.hosts):
            break
        time.sleep(0.1)
        view = connect().fleet(view.id, args.project)
    if not args.detach and all(host.message for host in view.hosts):
        raise Unreachable(
            f"no host of fleet {view.name} can be used: {view.hosts[0].message}", hint="`%dstack fleets` shows each"
        )
    return Result(_fleet_rows(view.name, args), columns=HOST_COLUMNS)


def _apply_cloud_fleet(fleet: FleetConfiguration, args: argparse.Namespace, frontend: Frontend) -> Result:
    """Show the price, ask, apply, and wait until the fleet has its least number of machines. Raises NoCapacity if it is short."""
    plan = api.plan_fleet(fleet, project=args.project)
    _tell(frontend)
    frontend.say(fleet_plan_line(plan))
    for note in plan.notes:
        frontend.say(note)
    if plan.more and not plan.offers:
        raise NoCapacity(fleet_plan_line(plan), hint="`%dstack offers` shows what there is and which filter removed it")
    if plan.price != 0:
        for offer in plan.offers:
            spot = " spot" if offer.spot else ""
            frontend.say(f"  {offer.backend} {offer.region} {offer.instance_type}{spot}: {price(offer.price)}")
        if not args.yes and not frontend.ask(f"Rent {plan.more} machines for {price(plan.price)}, with no end set?"):
            raise ConfirmationNeeded("not rented", hint="nothing was started")
    fleet.name = plan.name
    view = api.apply_fleet(fleet, project=args.project)
    said = ""
    while not args.detach:
        if (line := fleet_line(view)) != said:
            frontend.say(line)
            said = line
        if view.message:
            raise NoCapacity(
                f"fleet {view.name} is short: {view.message}", hint="it tries again by itself; `%dstack fleets` shows it"
            )
        if sum(host.state in ("idle", "busy") for host in view.hosts) >= (view.nodes.get("min") or 0):
            break
        time.sleep(FLEET_LOOK)
        view = connect().fleet(view.id, args.project)
    return Result(_fleet_rows(view.name, args), columns=HOST_COLUMNS)


def _fleet_rows(name: str, args: argparse.Namespace) -> Any:
    frame = api.fleets(project=args.project, rented=False)
    return frame[frame["fleet"] == name].reset_index(drop=True)


def fleets(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    client = connect()
    if args.verb in ("delete", "trust", "get") and not args.name:
        raise ConfigurationError(f"fleets {args.verb} needs a fleet's name", hint="`%dstack fleets` lists them")
    if args.verb == "delete":
        client.delete_fleet(args.name, args.project)
        frontend.say(f"fleet {args.name}: its hosts are given back, its rented machines ended")
        return Result(None, shown=True)
    if args.verb == "trust":
        if not args.host:
            raise ConfigurationError("fleets trust needs a host", hint="`%dstack fleets trust FLEET HOST`")
        client.trust(args.name, args.host, args.project)
        frontend.say(f"the key that {args.host} shows next is pinned")
        return Result(None, shown=True)
    if args.verb == "get":
        client.fleet(args.name, args.project)
        return Result(_fleet_rows(args.name, args), columns=HOST_COLUMNS)
    if not args.json:
        watching.say_money(connect().machines(args.project), frontend)
    return Result(api.fleets(project=args.project), columns=HOST_COLUMNS)


def _active(run: Run) -> Conflict:
    return Conflict(
        f"a run named {run.name!r} is active ({run.state})",
        hint=f"follow it with `%dstack attach {run.name}`, end it with `%dstack stop {run.name}`, or choose another name",
    )


def _configuration(args: argparse.Namespace, body: str | None) -> tuple[AnyRun | FleetConfiguration, Path]:
    """The configuration of a cell's body or a file with the flags laid over it, and the folder its paths begin at."""
    from ..models.yaml_reader import read_file

    if body is not None and args.file:
        raise ConfigurationError("a cell's body and -f are two configurations", hint="use `%dstack apply -f FILE` alone")
    if body is not None:
        task, base = api.load(body, first_line=2), Path.cwd()
    elif args.file == "-":
        task, base = api.load(sys.stdin.read(), file="<stdin>"), Path.cwd()
    elif args.file:
        path = Path(args.file).expanduser()
        task, base = api.load(read_file(path), file=str(path)), path.parent.absolute()
    else:
        raise ConfigurationError("apply needs a configuration", hint="`%%dstack apply` with YAML below, or -f FILE")
    if task.type != "fleet":
        _lay_over(task, args)
    elif args.name:
        task.name = args.name
    return task, base


def _lay_over(task: AnyRun, args: argparse.Namespace) -> None:
    """Flags win over the configuration. Raises ConfigurationError that names the flag."""
    from pydantic import ValidationError

    from ..models.yaml_reader import flag_value

    flags: dict[str, Any] = {
        "name": args.name,
        "max_duration": args.max_duration,
        "max_price": args.max_price,
        "spot_policy": args.spot_policy,
        "backends": args.backend or None,
        "regions": args.region or None,
        "instance_types": args.instance_type or None,
        "fleets": args.fleet or None,
        "retry": True if args.retry else None,
    }
    asked = {key: flag_value(key, getattr(args, key)) for key in ("gpu", "cpu", "memory", "disk") if getattr(args, key)}
    try:
        for key, value in flags.items():
            if value is not None:
                setattr(task, key, value)
        if asked:
            task.resources = type(task.resources).model_validate({**task.resources.model_dump(exclude_unset=True), **asked})
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        flag = "-".join(str(part) for part in fault["loc"][:1])
        raise ConfigurationError(f"--{flag}: {fault['msg'].removeprefix('Value error, ')}") from None
    for item in args.env:
        name, separator, value = item.partition("=")
        if not separator:
            raise ConfigurationError(f"-e {name}: expected NAME=value")
        task.env = {**task.env, name: value}


def _confirm(plan: Plan, frontend: Frontend, *, yes: bool) -> None:
    """Show what it costs; ask before money is spent (a price of 0 never asks)."""
    frontend.say(plan_line(plan))
    for note in plan.notes:
        frontend.say(note)
    if plan.price == 0:
        return
    each = " each" if plan.nodes > 1 else ""
    for offer in plan.offers:
        spot = " spot" if offer.spot else ""
        frontend.say(f"  {offer.backend} {offer.region} {offer.instance_type}{spot}: {price(offer.price)}{each}")
    bounded = plan.price is None or plan.max_cost is not None
    most = f", {format_dollars(plan.max_cost)} at most" if plan.max_cost is not None else "" if bounded else ", with no end set"
    if not yes and not frontend.ask(f"Launch for {price(plan.price)}{most}?"):
        raise ConfirmationNeeded("not launched", hint="nothing was started")


def _until_attachable(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Frames up to the one that says how the run is reached."""
    for frame in frames:
        yield frame
        if isinstance(frame, RunFrame) and frame.run.attachment is not None:
            return


def _say_attachment(run: Run, frontend: Frontend) -> None:
    """How the run is reached from here."""
    attachment = run.view.attachment
    for line in attachment_lines(run.name, attachment) if attachment is not None else ():
        frontend.say(line)


def _follow(run: Run, frontend: Frontend, job: int = 0) -> Result:
    """Show a run until it has ended (a dev environment: until it can be used); an interrupt detaches. Raises RunFailed."""
    from ..display import logview

    view = frontend.view(run.view)
    frames = run.stream(job=job)
    thread = logview.follow(_until_attachable(frames) if run.view.type == "dev-environment" else frames, view)
    try:
        logview.wait(thread)
    except KeyboardInterrupt:
        text = f"detached: run {run.name} goes on; `%dstack attach {run.name}` follows it, `%dstack stop {run.name}` ends it"
        say = getattr(view, "say", frontend.say)
        say(text)
        if not frontend.is_notebook:
            raise
        return Result(run, shown=True)
    if not run.ended:
        _say_attachment(run, frontend)
        return Result(run, shown=True)
    check(run)
    return Result(run, shown=True)


def check(run: Run) -> None:
    """Raises RunFailed for a run that ended without success; one that its user stopped is no failure."""
    view = run.view
    if view.state is RunState.DONE or view.reason in ("stopped_by_user", "aborted_by_user"):
        return
    lines = run.logs().tail(LAST_LINES).lines
    hint = f"its log is above; `%dstack logs {run.name}` has all of it, `%dstack events --run {run.name}` the story"
    if view.reason == Reason.NO_CAPACITY:
        hint = f"`%dstack events --run {run.name}` has each try with its time; `%dstack offers` shows what there is"
    raise RunFailed(
        f"run {run.name} {view.state}: {view.message or view.reason}",
        hint=hint,
        run=run.name,
        exit_code=view.exit_code,
        last_lines=lines,
    )


def logs(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    run = api.run(args.run, project=args.project)
    if args.follow:
        return _follow(run, frontend, args.job)
    if args.raw:
        return Result(run.raw(args.job))
    log = run.logs(args.job)
    if args.tail is not None:
        log = log.tail(args.tail)
    return Result(log.frame() if args.df else log)


def attach(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    run = api.run(args.run, project=args.project)
    _say_attachment(run, frontend)
    return _follow(run, frontend, args.job)


def stop(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    run = api.run(args.run, project=args.project)
    if run.ended:
        frontend.say(f"run {run.name} has ended already ({run.state})")
        return Result(run)
    run.stop(args.abort)
    # What ends at once is shown ended; what takes its time is not waited for.
    deadline = time.monotonic() + 3
    while not run.ended and time.monotonic() < deadline:
        time.sleep(0.05)
        run.refresh()
    return Result(run)


def pull(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    run = api.run(args.run, project=args.project)
    pulled = run.pull(args.path, Path(args.to).expanduser(), job=args.job, overwrite=args.overwrite)
    for path in pulled.kept:
        frontend.say(f"kept {path}: you edited it since the run was submitted; `--overwrite` replaces it")
    return Result(pulled)


def events(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    frame = api.events(project=args.project, run=args.run, after=args.after, last=args.last)
    return Result(frame, columns=EVENT_COLUMNS)


COMMANDS: dict[str, Callable[[argparse.Namespace, Frontend, str | None], Result]] = {
    "offers": offers,
    "apply": apply,
    "fleets": fleets,
    "ps": watching.ps,
    "status": watching.status,
    "logs": logs,
    "attach": attach,
    "stop": stop,
    "pull": pull,
    "backends": configuring.backends,
    "events": events,
    "check": configuring.check,
    "schema": configuring.schema,
    "configure": configuring.configure,
    "cleanup": cleaning.cleanup,
    "doctor": configuring.doctor,
}


WITHOUT_ENGINE = ("offers", "check", "schema", "configure", "backends")
"""Commands that never look for an engine."""


def run_command(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    """Carry out parsed arguments. Raises models.errors only."""
    try:
        return COMMANDS[args.command](args, frontend, body)
    finally:
        if args.command not in WITHOUT_ENGINE:
            _tell(frontend)


def _tell(frontend: Frontend) -> None:
    """What the client has to say to the user, once, on the main thread."""
    client = connect()
    while client.notices:
        frontend.say(client.notices.pop(0))
