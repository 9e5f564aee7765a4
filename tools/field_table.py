"""Every field of the configuration reference against our models: a table, and exit code 1 if one is missing.

python tools/field_table.py ../shared/reference/configuration.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from dstack_jupyter.backends.config.file import ServerFile, model_of
from dstack_jupyter.backends.registry import CONFIGS
from dstack_jupyter.models.configurations import DevEnvironmentConfiguration, RunConfiguration, TaskConfiguration
from dstack_jupyter.models.faults import members
from dstack_jupyter.models.fleets import FleetConfiguration
from dstack_jupyter.models.gateways import GatewayConfiguration
from dstack_jupyter.models.profiles import ProfileParams, ProfilesFile
from dstack_jupyter.models.services import ServiceConfiguration
from dstack_jupyter.models.volumes import VolumeConfiguration

PROSE_TEXT = """
a all also alphanumeric and any api api_form are as aws azure base beside body bool by can config content creds data
default defaults digits duration else empty era exposes fabric false file fills filled form from gcp given group has
header health hidden host hours identifier if image in inside int is it its json key kind latest least length list lists
map max means minimum must mode more name named names network no not null number object of on one only or other path
profile project range rate region regions required row same see seed server set since str string subnet terminates than
that the then this to true type types up used uses value values vendor vpc vscode when where which while window with xor
ch context daytona deprecated encrypt enough hr id inert kubernetes last lets lium machines medium mem micro model needs
net optional per private runpod s self two union
adds balancer cm implies load
"""
PROSE = frozenset(PROSE_TEXT.split())
"""Words of the reference's cells that are prose. A word that one of our models has is never skipped."""


def names_in(model: type[BaseModel], seen: set[type[BaseModel]] | None = None) -> set[str]:
    """All field names of a model and of the models in it, and the words that its literals allow."""
    seen = set() if seen is None else seen
    if model in seen:
        return set()
    seen.add(model)
    found = set(model.model_fields)
    for info in model.model_fields.values():
        found |= {word for word in _literals(info.annotation) if isinstance(word, str)}
        for inner in members(info.annotation):
            found |= names_in(inner, seen)
    return found


def _literals(annotation: object) -> Iterator[object]:
    for part in get_args(annotation):
        if isinstance(part, str):
            yield part
        yield from _literals(part)


def section(text: str, number: str) -> str:
    """The text of a section of the reference, up to the next heading."""
    start = re.search(rf"^#+ {re.escape(number)} ", text, re.MULTILINE)
    assert start is not None, number
    end = re.search(r"^##+ ", text[start.end() :], re.MULTILINE)
    return text[start.end() : start.end() + end.start() if end else len(text)]


def fields_in(cell: str, ours: set[str]) -> list[str]:
    """Words with the shape of a field's name, prose taken out."""
    words = dict.fromkeys(re.findall(r"\b[a-z]+(?:_[a-z]+)*\b", cell))
    return [word for word in words if word in ours or word not in PROSE]


def rows_of(text: str) -> Iterator[tuple[str, str, set[str]]]:
    """(where in the reference, field, the names that our models have there)."""
    for line in section(text, "2.2").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if len(cells) < 3 or cells[0] in ("backend", "---"):
            continue
        kinds = [kind for kind in CONFIGS if re.search(rf"\b{kind}\b", cells[0].lower())]
        for kind in kinds:
            ours = names_in(model_of(kind))
            for field in fields_in(" ".join(cells[1:]), ours):
                yield f"§2.2 {kind}", field, ours
    root = names_in(ServerFile)
    for line in section(text, "2.1").splitlines():
        for code in re.findall(r"^- `([a-z_.]+)`", line):
            for field in code.split("."):
                yield "§2.1", field, root
    runs = names_in(TaskConfiguration) | names_in(DevEnvironmentConfiguration) | names_in(ServiceConfiguration)
    for number, ours in (("4.1", runs), ("4.2", names_in(ProfileParams) | names_in(ProfilesFile))):
        for line in section(text, number).splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
            for field in re.findall(r"\b[a-z]+(?:_[a-z]+)*\b", re.sub(r"\(.*?\)|\[.*?\]", "", cells[0])) if cells else ():
                if field not in ("field", "removed", "and", "task", "dev", "environment", "service"):
                    yield f"§{number}", field, ours if number == "4.2" else runs | names_in(RunConfiguration)
    kinds = {"fleet": FleetConfiguration, "volume": VolumeConfiguration, "gateway": GatewayConfiguration}
    current = ""
    for line in section(text, "4.3").splitlines():
        named = re.match(r"- \*\*(\w+)\*\*", line)
        current = named[1] if named else current
        if current in kinds:
            ours = names_in(kinds[current])
            for field in fields_in(re.sub(r"\([^)]*\)|`[^`]*`", " ", line.partition(":")[2]), ours):
                yield f"§4.3 {current}", field, ours
    for line in section(text, "4.1").splitlines():
        if line.startswith(("- **Task", "- **Dev", "- **Service", "  ")):
            for field in re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", line):
                yield "§4.1 types", field, runs


def main() -> int:
    """With the path of the reference as argument; by default the one that lies beside this project."""
    beside = Path(__file__).parents[1].parent / "shared" / "reference" / "configuration.md"
    text = (Path(sys.argv[1]) if len(sys.argv) > 1 else beside).read_text()
    missing = 0
    print("| reference | field | ours |\n|---|---|---|")
    for where, field, ours in dict.fromkeys((where, field, frozenset(ours)) for where, field, ours in rows_of(text)):
        print(f"| {where} | {field} | {'yes' if field in ours else 'MISSING'} |")
        missing += field not in ours
    print(f"\n{missing} missing")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
