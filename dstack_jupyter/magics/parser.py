"""The one parser of ``%dstack``, ``%%dstack`` and ``jupyter dstack``: nouns, flags, help."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from ..models.errors import ConfigurationError

ALIASES = {
    "offer": "offers",
    "event": "events",
    "backend": "backends",
    "log": "logs",
    "run": "ps",
    "list": "ps",
    "fleet": "fleets",
}


class HelpShown(Exception):
    """``-h`` was given; ``text`` is the help."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises our errors, never exits and never prints."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**kwargs)

    def error(self, message: str) -> NoReturn:
        hint = f"`{'' if self.prog.startswith('jupyter ') else '%'}{self.prog} -h` shows what there is"
        wrong = re.search(r"unrecognized arguments: (\S+)", message)
        if wrong:
            flag = wrong[1].partition("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, 1)
            hint = f"did you mean {near[0]}?" if near else hint
        chosen = re.search(r"invalid choice: '([^']+)'", message)
        if chosen:
            near = difflib.get_close_matches(chosen[1], [*COMMANDS, *ALIASES], 1)
            message = f"there is no command {chosen[1]!r}"
            hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(COMMANDS)}"
        raise ConfigurationError(f"{self.prog}: {message}", hint=hint)

    def print_help(self, file: Any = None) -> None:
        raise HelpShown(self.format_help())

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise HelpShown(message or "")


def _project(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--project", default="main", help="namespace of runs (default: main)")


def _output(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("-o", metavar="VAR", dest="into", help=f"store {what} in this variable")
    parser.add_argument("--json", action="store_true", help="print JSON instead")


def _resources(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what the machine must have")
    group.add_argument(
        "--gpu",
        metavar="SPEC",
        help="[vendor:][name,…:][memory:][count], such as 24GB.., A100,H100:80GB:1.., H100:8, amd; "
        "or '{total_memory: 160GB.., compute_capability: 8.0}'",
    )
    group.add_argument("--cpu", metavar="SPEC", help="such as 4.., arm:8")
    group.add_argument("--memory", metavar="RANGE", help="such as 32GB.., 64GB..128GB (one figure is exactly that)")
    group.add_argument("--disk", metavar="RANGE", help="such as 200GB..")
    group.add_argument("-b", "--backend", action="append", default=[], metavar="NAME", help="only this backend; repeatable")
    group.add_argument("-r", "--region", action="append", default=[], metavar="NAME", help="only this region; repeatable")
    group.add_argument("--instance-type", action="append", default=[], metavar="NAME", help="only this type; repeatable")
    group.add_argument("--max-price", type=float, metavar="DOLLARS", help="per hour at most")
    spot = group.add_mutually_exclusive_group()
    spot.add_argument("--spot", dest="spot_policy", action="store_const", const="spot", help="spot only")
    spot.add_argument("--on-demand", dest="spot_policy", action="store_const", const="on-demand", help="on-demand only")
    spot.add_argument("--spot-auto", dest="spot_policy", action="store_const", const="auto", help="both")


def _run(parser: argparse.ArgumentParser, *, job: bool = False) -> None:
    parser.add_argument("run", metavar="RUN", help="name or id of a run")
    if job:
        parser.add_argument("--job", type=int, default=0, metavar="N", help="the node's number (default: 0, the master)")


def _offers(parser: argparse.ArgumentParser) -> None:
    _resources(parser)
    parser.add_argument("--zone", action="append", default=[], metavar="NAME", help="only this availability zone; repeatable")
    parser.add_argument("--max-offers", type=int, metavar="N", help="the cheapest N only (a shell prints 50 unless told)")
    parser.add_argument(
        "--group-by", metavar="KEYS", help="one row a group: gpu, and any of backend, region, count, as in gpu,backend"
    )
    parser.add_argument("--refresh", action="store_true", help="wait until every backend has answered or failed")
    _output(parser, "the DataFrame")


def _apply(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--file", metavar="FILE", help="the YAML file (in a cell: the cell's body)")
    parser.add_argument("-n", "--name", help="name of the run")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask before money is spent")
    parser.add_argument("-d", "--detach", action="store_true", help="return at once; the run goes on")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE", help="no secrets here: cells are saved")
    parser.add_argument("--max-duration", metavar="DURATION", help="such as 2h: ends the run on the machine itself")
    parser.add_argument("--fleet", action="append", default=[], metavar="NAME", help="use hosts of this fleet")
    parser.add_argument("--retry", action="store_true", help="try again after a failure, for an hour")
    parser.add_argument("--max-offers", type=int, default=3, metavar="N", help="offers that the plan shows")
    _resources(parser)
    _project(parser)
    _output(parser, "the run")


def _ps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-a", "--all", action="store_true", help="ended runs too")
    parser.add_argument("-n", "--last", type=int, metavar="N", help="the last N runs")
    parser.add_argument("-v", "--verbose", action="store_true", help="what each run has tried, and what its machines do")
    _project(parser)
    _output(parser, "the DataFrame")


def _status(parser: argparse.ArgumentParser) -> None:
    _project(parser)
    _output(parser, "the report")


def _logs(parser: argparse.ArgumentParser) -> None:
    _run(parser, job=True)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")
    parser.add_argument("--df", action="store_true", help="a DataFrame with time, job, line")
    parser.add_argument("--raw", action="store_true", help="the bytes as they are")
    parser.add_argument("--tail", type=int, metavar="N", help="the last N lines")
    _project(parser)
    _output(parser, "the log")


def _attach(parser: argparse.ArgumentParser) -> None:
    _run(parser, job=True)
    _project(parser)
    parser.add_argument("-o", metavar="VAR", dest="into", help="store the run in this variable")


def _stop(parser: argparse.ArgumentParser) -> None:
    _run(parser)
    parser.add_argument("-x", "--abort", action="store_true", help="kill it at once")
    parser.add_argument("-y", "--yes", action="store_true", help="accepted for dstack's sake: stopping never asks")
    _project(parser)


def _pull(parser: argparse.ArgumentParser) -> None:
    _run(parser, job=True)
    parser.add_argument("path", metavar="PATH", nargs="?", default=".", help="file or folder in the run's working folder")
    parser.add_argument("--to", metavar="DIR", default=".", help="where to (default: here)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that you edited since the run was submitted, too")
    _project(parser)
    parser.add_argument("-o", metavar="VAR", dest="into", help="store the list of paths in this variable")


def _backends(parser: argparse.ArgumentParser) -> None:
    what = "list; check: permissions; policy: what to allow; help: how to log in; or a backend's name"
    parser.add_argument("verb", nargs="?", default="list", metavar="VERB", help=what)
    parser.add_argument("name", nargs="?", metavar="NAME", default="", help="a backend, such as aws")
    _project(parser)
    _output(parser, "the DataFrame")


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", nargs="?", metavar="FILE", default="", help="any YAML of dstack's (default: .dstack.yml here, or config.yml)"
    )
    _output(parser, "the report")


def _schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", help="task, dev-environment, service, fleet, …, config, or a backend's name")
    parser.add_argument("-o", metavar="VAR", dest="into", help="store the schema in this variable")
    parser.add_argument("--json", action="store_true", help="accepted: a schema is JSON")


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="a backend, such as aws; keys are asked for, never given here")
    _project(parser)


def _fleets(parser: argparse.ArgumentParser) -> None:
    verbs = ["list", "get", "delete", "trust"]
    parser.add_argument("verb", nargs="?", default="list", choices=verbs, help="trust: forget the pinned key of a host")
    parser.add_argument("name", nargs="?", metavar="FLEET", default="")
    parser.add_argument("host", nargs="?", metavar="HOST", default="")
    parser.add_argument("-y", "--yes", action="store_true", help="accepted for dstack's sake: giving hosts back never asks")
    _project(parser)
    _output(parser, "the DataFrame")


def _events(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", default="", help="of this run only")
    parser.add_argument("--after", type=int, default=0, metavar="SEQ", help="after this number")
    parser.add_argument("-n", "--last", type=int, default=100, metavar="N", help="how many (default: 100)")
    _project(parser)
    _output(parser, "the DataFrame")


def _cleanup(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--delete", action="store_true", help="end what nobody needs; never what a run or fleet has")
    parser.add_argument(
        "--forget", metavar="NAME", help="count a machine as ended whose account is gone for good: it may go on to cost money"
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask before anything is ended")
    _output(parser, "the report")


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fix", action="store_true", help="mend what can be mended safely: permissions of files")
    parser.add_argument("--rotate-key", action="store_true", help="seal the store with a new key and forget the old one")
    parser.add_argument("--no-start", action="store_true", help="look only: do not start an engine where none runs")
    parser.add_argument("--json", action="store_true", help="print JSON instead")


COMMANDS: dict[str, tuple[str, Any]] = {
    "offers": ("every offer that fits, cheapest first, as a DataFrame", _offers),
    "apply": ("run a configuration: shows plan and price, launches, streams the log", _apply),
    "ps": ("runs: their states, machines, $/h and cost so far", _ps),
    "status": ("everything at one look: engine, backends in trouble, rented machines and $/h, what is stuck", _status),
    "logs": ("the log of a run", _logs),
    "attach": ("follow a run: its state and its whole log", _attach),
    "stop": ("end a run", _stop),
    "pull": ("copy results of a run to here", _pull),
    "backends": ("backends and whether they can be used; their permissions, policies, help", _backends),
    "configure": ("enter a backend's keys, unseen, and save them in config.yml", _configure),
    "check": ("is a configuration valid, and if not, where and why", _check),
    "schema": ("the JSON Schema of a configuration, for editors", _schema),
    "fleets": ("machines of one's own and rented ones: what runs there, what they cost, what is wrong with them", _fleets),
    "events": ("who did what, when and why", _events),
    "cleanup": ("all that was ever made in accounts at vendors, and on request the end of what nobody needs", _cleanup),
    "doctor": ("examine this installation", _doctor),
}

EXAMPLES = """
examples:
  df = %dstack offers --gpu 24GB..        a plain pandas DataFrame
  %%dstack apply -n train                 YAML in the cell; interrupting it detaches
  %dstack logs train --df                 the log as a DataFrame
  %dstack pull train metrics.csv          a result of the run
"""


def build(prog: str = "dstack") -> Parser:
    """The whole parser; ``prog`` is how the user calls it."""
    parser = Parser(prog=prog, description="Launch and watch runs.", epilog=EXAMPLES)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser, title="commands")
    for command, (text, fill) in COMMANDS.items():
        fill(commands.add_parser(command, help=text, description=text, prog=f"{prog} {command}"))
    return parser


class SecretTyped(ConfigurationError):
    """What was typed may be a secret: it is in no message, and must not stay in a history."""


def parse(arguments: Sequence[str], prog: str = "dstack") -> argparse.Namespace:
    """Arguments as a namespace with ``command``. Raises HelpShown, ConfigurationError with the nearest word."""
    words = list(arguments)
    parser = build(prog)
    if not words or words[0] in ("help", "-h", "--help"):
        raise HelpShown(parser.format_help() if len(words) < 2 else _help_of(words[1], prog))
    words[0] = ALIASES.get(words[0], words[0])
    namespace, unknown = parser.parse_known_args(words)
    if unknown and namespace.command == "configure":
        raise SecretTyped(
            f"{prog} configure takes a backend's name and nothing else: it asks for what is secret, unseen",
            hint=f"if that was a key, whoever sees this line knows it: make a new one, then `{prog} configure {namespace.name}`",
        )
    if unknown:
        subparser(parser, words[0]).error(f"unrecognized arguments: {' '.join(unknown)}")
    return namespace


def subparser(parser: Parser, command: str) -> Parser:
    action = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    chosen: Parser = action.choices[command]
    return chosen


def _help_of(command: str, prog: str) -> str:
    command = ALIASES.get(command, command)
    return subparser(build(prog), command).format_help() if command in COMMANDS else build(prog).format_help()
