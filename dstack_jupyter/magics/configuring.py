"""Commands about configurations and backends: check, schema, backends, configure, doctor. None of them starts a run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import api
from ..display.html import problems_html, table
from ..models.errors import ConfigurationError, NotFound
from .frontend import Frontend, Report, Result

if TYPE_CHECKING:
    from ..backends.config.check import Checked

VERBS = ("list", "check", "policy", "help")
BACKEND_COLUMNS = ("backend", "kind", "configured", "credentials", "permissions", "last_error", "status")
RIGHT_COLUMNS = ("permission", "level", "purpose", "status")
FILES = (".dstack.yml", ".dstack.yaml", "dstack.yml")


def check(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    """Exit code 0 for a valid configuration, 1 for one with faults."""
    if body is not None:
        checked = api.check("<cell>", text=body, first_line=2)
    else:
        checked = api.check(_file(args.file))
    return Result(_report(checked), code=0 if checked.valid else 1)


def _file(named: str) -> Path:
    """The file that is meant: the one that is named, else one of this folder, else config.yml."""
    from ..backends.config.configured import config_path

    if named:
        return Path(named)
    for candidate in (*map(Path, FILES), config_path()):
        if candidate.is_file():
            return candidate
    raise NotFound("there is nothing to check here", hint="name a file: `check FILE`")


def _report(checked: Checked) -> Report:
    place = checked.file or "<cell>"
    if checked.valid:
        lines = [f"{place}: valid ({checked.kind})", *(f"  note: {note}" for note in checked.notes)]
        return Report(lines, checked.to_json())
    count = f"{len(checked.errors)} fault{'s' if len(checked.errors) > 1 else ''}"
    lines = [f"{place}: {count}", *(f"  {problem}" for problem in checked.errors)]
    return Report(lines, checked.to_json(), problems_html(place, checked.errors))


def schema(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    from ..backends.config import schema as schemas

    document = schemas.schema(args.kind)
    return Result(Report(json.dumps(document, indent=2).splitlines(), document))


def backends(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    from ..backends import overview
    from ..backends.config.account import account_of
    from ..backends.config.configured import configured

    for warning in configured().warnings():
        frontend.say(f"warning: {warning}")
    if args.verb not in VERBS:
        args.verb, args.name = "list", args.verb  # `backends aws` is what people type
    if args.verb == "list":
        if args.name:
            frame = api.backends(project=args.project)
            return Result(frame[frame["backend"] == account_of(args.name)[0]].reset_index(drop=True), columns=BACKEND_COLUMNS)
        for problem in configured().current().problems:
            frontend.say(f"fault: {problem}")
        return Result(api.backends(project=args.project), columns=BACKEND_COLUMNS)
    if not args.name:
        raise ConfigurationError(f"backends {args.verb} needs a backend's name", hint="`%dstack backends` lists them")
    if args.verb == "check":
        name, _ = account_of(args.name)
        fault = configured().faults(args.project).get(name)
        if fault is not None:
            frontend.say(f"fault: {fault}")
        frame = api.permissions(name, project=args.project)
        if frame.empty:
            frontend.say(f"{name}: {overview.policy(name, args.project)}")
        return Result(frame, columns=RIGHT_COLUMNS)
    if args.verb == "policy":
        text = overview.policy(args.name, args.project)
        return Result(Report(text.splitlines(), text))
    lines = list(overview.help_lines(args.name))
    return Result(Report(lines, lines))


def configure(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    """Ask for what a backend's entry needs, secrets unseen, and save it. Nothing of it is in the cell."""
    from ..backends.config import saving
    from ..backends.config.configured import config_path

    form = saving.Form.of(args.name)
    variants = form.variants
    if not variants:
        raise ConfigurationError(f"{args.name} needs no entry", hint=f"`%dstack backends help {args.name}`")
    variant = variants[0] if len(variants) == 1 else _choose(frontend, args.name, variants)
    entry: dict[str, Any] = {}
    for field in form.fields(variant):
        what = f"{args.name} {'.'.join(field.path)}{'' if field.required else ' (enter: none)'}: "
        while True:
            text = frontend.enter(what, secret=field.secret).strip()
            if text or not field.required:
                break
            frontend.say(f"{field.path[-1]} is needed")
        if text:
            saving.put(entry, field.path, text)
    path = config_path()
    saving.save(path, args.project, form.entry(variant, entry))
    frontend.say(f"{args.name} is configured in {path} (0600); `%dstack backends check {args.name}` looks at its permissions")
    frame = api.backends(project=args.project)
    return Result(frame[frame["backend"] == form.name].reset_index(drop=True), columns=BACKEND_COLUMNS)


def _choose(frontend: Frontend, name: str, variants: list[str]) -> str:
    while True:
        given = frontend.enter(f"{name} creds.type, one of {', '.join(variants)} [{variants[0]}]: ").strip() or variants[0]
        if given in variants:
            return given
        frontend.say(f"there is no creds.type {given!r}")


def doctor(args: argparse.Namespace, frontend: Frontend, body: str | None) -> Result:
    """Exit code 1 if anything is wrong."""
    if args.fix:
        for done in api.fix():
            frontend.say(done)
    if args.rotate_key:
        made = api.rotate_key()
        frontend.say(f"the store has the key {made['key']}; {made['values']} values were sealed anew")
    findings = api.doctor(start=not args.no_start)
    words = {True: "ok", False: "BAD", None: "?"}
    lines: list[str] = []
    for line in findings:
        lines.append(f"{words[line['ok']]:<4} {line['check']:<12} {line['message']}")
        if line["hint"]:
            lines.append(f"     {'':<12} → {line['hint']}")
    bad = sum(line["ok"] is False for line in findings)
    lines.append("all is well" if not bad else f"{bad} thing{'s' if bad > 1 else ''} to mend")
    rows = [(words[line["ok"]], line["check"], line["message"], line["hint"]) for line in findings]
    return Result(Report(lines, findings, table(("", "check", "found", "what to do"), rows)), code=1 if bad else 0)
