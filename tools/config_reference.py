"""Writes docs/config-reference.md from the models; a test notices when it was forgotten.

python tools/config_reference.py > docs/config-reference.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from dstack_jupyter.backends.config.schema import KINDS, model, schema

HEAD = """\
# Every key of every configuration

Made from the models by `make docs`: do not edit. `%dstack check FILE` says what is wrong with a file and where,
`jupyter dstack schema KIND` prints the JSON Schema for an editor. Keys of both eras of dstack (0.19 and newer) are understood;
what is understood and not built yet is refused by name when it is applied.
"""


def kind_of(part: dict[str, Any], definitions: dict[str, Any]) -> str:
    """A type in words."""
    if "$ref" in part:
        name = part["$ref"].rpartition("/")[2]
        found = definitions[name]
        return f"[{name}](#{name.lower()})" if "properties" in _object(found) else kind_of(found, definitions)
    if "enum" in part:
        return " \\| ".join(f"`{value}`" for value in part["enum"])
    if "const" in part:
        return f"`{part['const']}`"
    for union in ("anyOf", "oneOf"):
        if union in part:
            kinds = dict.fromkeys(kind_of(each, definitions) for each in part[union])
            wide = [each for each in kinds if each != "short form"]
            return " \\| ".join([*(each for each in wide if each != "null"), *(["short form"] if "short form" in kinds else [])])
    match part.get("type"):
        case "array":
            return f"list of {kind_of(part.get('items', {}), definitions)}"
        case "object":
            inner = part.get("additionalProperties")
            return f"map to {kind_of(inner, definitions)}" if isinstance(inner, dict) else "map"
        case "string":
            return "secret text" if part.get("format") == "password" else "text"
        case list():
            return "short form"
        case None:
            return "anything"
        case other:
            return {"integer": "whole number", "number": "number", "boolean": "true \\| false"}.get(other, other)


def _object(part: dict[str, Any]) -> dict[str, Any]:
    """The part of a schema that has properties, behind short forms."""
    if "properties" in part:
        return part
    return next((_object(each) for each in part.get("anyOf", ()) if _object(each)), {})


def _default(name: str, part: dict[str, Any], required: list[str]) -> str:
    if name in required:
        return "**needed**"
    value = part.get("default")
    if isinstance(value, dict):
        return "its own"
    return "" if value is None else f"`{value}`".replace("True", "true").replace("False", "false")


def rows(part: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    found = _object(part)
    yield "| key | type | default |\n|---|---|---|"
    for name, each in found["properties"].items():
        ours = " (ours, not dstack's)" if "our own" in each.get("description", "").lower() else ""
        yield f"| `{name}`{ours} | {kind_of(each, definitions)} | {_default(name, each, found.get('required', []))} |"


def document() -> str:
    lines = [HEAD]
    shown: dict[str, str] = {}
    for kind in KINDS:
        if kind == "verda":
            continue
        found = schema(kind)
        definitions = found.get("$defs", {})
        own = {name: part for name, part in definitions.items() if "-" not in name and name not in KINDS}
        doc = (model(kind).__doc__ or "").replace("``", "`").strip().split("\n\n")[0].replace("\n", " ")
        lines += [f"## {kind}\n", f"{' '.join(doc.split())}\n", *rows(found, definitions), ""]
        for name, part in own.items():
            if "properties" not in _object(part):
                continue
            text = "\n".join(rows(part, definitions))
            if shown.setdefault(f"{kind}/{name}", text) == next(
                (each for key, each in shown.items() if key.endswith(f"/{name}") and key != f"{kind}/{name}"), None
            ):
                continue
            about = " ".join(str(_object(part).get("description", "")).replace("``", "`").split("\n\n")[0].split())
            lines += [f"### {name}\n", *([about, ""] if about else []), text, ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
