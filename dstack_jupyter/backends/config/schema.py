"""JSON Schema of every configuration, for editors; short forms (``24GB..``, ``8080:80``) are in it by their YAML types."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ...models.errors import NotFound
from ...models.yaml_source import TYPES
from ...models.yaml_source import model_of as model_of_type
from ..registry import CONFIGS
from .file import ServerFile, model_of

KINDS = (*TYPES, "profiles", "config", *CONFIGS)
"""What `schema` knows: types of runs and the like, both files, each backend's entry."""
DIALECT = "https://json-schema.org/draft/2020-12/schema"
SHORT = ("string", "number", "boolean", "null")
"""The YAML types of a short form; `check` knows its grammar."""
WIDER = {"_env": ("array", "object"), "_entity": ("object",), "_texts": ("object",)}
"""YAML types that a parser takes beyond a short form: lists of NAME=value, objects, maps whose values YAML made numbers of."""


class Lenient(GenerateJsonSchema):
    """A value that is parsed before it is validated may be written shortly: an editor must not call that wrong."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        inner = super().function_before_schema(schema)
        function = schema["function"]["function"]
        wider = WIDER.get(getattr(function, "__name__", ""), ())
        return {"anyOf": [inner, {"type": [*SHORT, *wider]}]}


def model(kind: str) -> type[BaseModel]:
    """The model of a kind. Raises NotFound with near names."""
    if kind in TYPES:
        return model_of_type(kind)
    if kind in CONFIGS:
        return model_of(kind)
    if kind == "profiles":
        from ...models.profiles import ProfilesFile

        return ProfilesFile
    if kind == "config":
        return ServerFile
    near = difflib.get_close_matches(kind, KINDS, 2)
    hint = f"did you mean {' or '.join(near)}?" if near else f"kinds: {', '.join(KINDS)}"
    raise NotFound(f"there is no schema {kind!r}", hint=hint)


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a kind. Raises NotFound."""
    result = _tidy(model(kind).model_json_schema(schema_generator=Lenient))
    if kind == "config":
        result = _with_backends(result)
    return {"$schema": DIALECT, "title": f"dstack {kind}", **{key: value for key, value in result.items() if key != "title"}}


def _tidy(part: Any) -> Any:
    """Closed objects stay closed behind their short forms: pydantic closes the choice instead of the object in it."""
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        _tidy(inner)
    if isinstance(part, dict) and "additionalProperties" in part and "properties" not in part:
        closed = next((each for each in part.get("anyOf", ()) if "properties" in each), None)
        if closed is not None:
            closed["additionalProperties"] = part.pop("additionalProperties")
    return part


def _with_backends(root: dict[str, Any]) -> dict[str, Any]:
    """config.yml's schema with the entry of each backend in it."""
    definitions = root.setdefault("$defs", {})
    entries = []
    for name in dict.fromkeys(CONFIGS.values()):
        kind = next(each for each, module in CONFIGS.items() if module == name)
        one = model_of(kind).model_json_schema(schema_generator=Lenient, ref_template=f"#/$defs/{kind}-{{model}}")
        _tidy(one)
        definitions.update({f"{kind}-{inner}": value for inner, value in one.pop("$defs", {}).items()})
        definitions[kind] = one
        entries.append({"$ref": f"#/$defs/{kind}"})
    backends = {"anyOf": [{"type": "array", "items": {"anyOf": entries}}, {"type": "null"}], "default": None}
    definitions["Project"]["properties"]["backends"] = backends
    return root
