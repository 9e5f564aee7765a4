"""What stands in two tables on purpose is in both: a command that only the parser knows, or a route that nobody decided about."""

from __future__ import annotations

import argparse
import re

from dstack_jupyter_server import routes as opened

from dstack_jupyter.backends import registry
from dstack_jupyter.engine.api import routes
from dstack_jupyter.magics import commands, completer, parser
from tests.clouds.fixtures import OFFERS

NOT_FOR_BROWSERS = {"/engine/handover", "/engine/rotate-key", "/code/*"}
"""Routes of the engine's socket that Jupyter's server does not forward: they are for this user's own processes."""


def shape(path: str) -> str:
    return re.sub(r"\(?\[[^\]]+\]\{[\d,]+\}\)?", "*", path)


def test_every_command_is_parsed_and_carried_out() -> None:
    assert set(parser.COMMANDS) == set(commands.COMMANDS)
    assert set(parser.ALIASES.values()) | set(commands.WITHOUT_ENGINE) <= set(parser.COMMANDS)


def test_names_of_runs_are_completed_where_a_run_is_asked_for() -> None:
    built = parser.build()
    asks = {
        command
        for command in parser.COMMANDS
        if any(action.dest == "run" and not action.option_strings for action in parser.subparser(built, command)._actions)
    }
    assert asks == set(completer.TAKES_RUN)


def test_every_command_has_help_for_each_of_its_arguments() -> None:
    built = parser.build()
    for command in parser.COMMANDS:
        for action in parser.subparser(built, command)._actions:
            said = action.help or action.metavar or isinstance(action, argparse._HelpAction)
            assert said, f"{command} {action.dest}: say what it is"


def test_of_each_route_it_was_decided_who_may_have_it() -> None:
    ours = {shape(path): handler for path, handler in routes.ROUTES}
    forwarded = {shape(path): methods for path, methods, _ in opened.ROUTES}
    assert set(ours) == set(forwarded) | NOT_FOR_BROWSERS
    assert not set(forwarded) & NOT_FOR_BROWSERS
    for path, methods in forwarded.items():
        absent = routes.web.RequestHandler._unimplemented_method
        implemented = {
            name for name in ("GET", "POST", "PUT", "PATCH", "DELETE") if getattr(ours[path], name.lower()) is not absent
        }
        assert set(methods) == implemented, path


def test_every_vendor_that_rents_has_a_fake() -> None:
    """What holds for all vendors is asked of each one in ``OFFERS``."""
    rents = {name for name, entry in registry.TABLE.items() if entry.module and entry.kind not in ("local", "on-prem")}
    assert rents == set(OFFERS)
