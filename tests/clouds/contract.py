"""A vendor's published OpenAPI file as a contract for both sides: requests of ours, answers of the fake.

Unknown fields are refused. ``allOf`` is merged first, for a closed world looks at each of its parts alone.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("get", "put", "post", "delete", "patch")


def specs() -> Path:
    """The folder of the vendors' files, beside this clone or beside the clone that a worktree belongs to."""
    beside = ROOT.parent / "shared" / "vendor-specs"
    if beside.exists():
        return beside
    command = ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"]
    common = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return Path(common).parent.parent / "shared" / "vendor-specs" if common else beside


def spec_file(name: str) -> Path | None:
    """A vendor's file, or None where this machine has not got it."""
    path = specs() / name
    return path if path.exists() else None


def needed(name: str) -> Path:
    """As ``spec_file``; skips with one line where it is missing. A CI that lacks it fails."""
    path = spec_file(name)
    if path is None:
        assert not os.environ.get("CI"), f"CI must have ../shared/vendor-specs/{name}"
        pytest.skip(f"needs ../shared/vendor-specs/{name}")
    return path


@cache
def load(path: Path) -> dict[str, Any]:
    """A large YAML file, once a process."""
    with path.open("rb") as file:
        found: dict[str, Any] = yaml.load(file, Loader=yaml.CSafeLoader)
    return found


def cut(
    document: Mapping[str, Any], paths: Iterable[str], overlay: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """The document with these paths only, every reference resolved and every ``allOf`` merged. ``overlay`` may then add what
    the live service is known to do and the file lacks."""
    kept = {path: _resolve(document, document["paths"][path]) for path in paths}
    schemes = document.get("components", {}).get("securitySchemes", {})
    found = {
        "openapi": document["openapi"],
        "info": {"title": document["info"]["title"], "version": document["info"]["version"]},
        "servers": document.get("servers", []),
        "paths": kept,
        "components": {"securitySchemes": schemes},
    }
    if overlay is not None:
        overlay(found)
    return found


def _resolve(document: Mapping[str, Any], node: Any, depth: int = 0) -> Any:
    assert depth < 60, "a schema that contains itself"
    if isinstance(node, list):
        return [_resolve(document, each, depth + 1) for each in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        target: Any = document
        for part in node["$ref"].lstrip("#/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")]
        return _resolve(document, target, depth + 1)
    # A discriminator points at schemas by name, which are no more.
    left_out = ("example", "examples", "discriminator")
    found = {key: _resolve(document, value, depth + 1) for key, value in node.items() if key not in left_out}
    return _merged(found) if isinstance(found.get("allOf"), list) else found


def _merged(node: dict[str, Any]) -> dict[str, Any]:
    """One schema for an ``allOf``."""
    parts = [*node.pop("allOf"), node]
    merged: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if key == "properties":
                merged.setdefault("properties", {}).update(value)
            elif key == "required" and isinstance(value, list):
                merged["required"] = sorted({*merged.get("required", []), *value})
            else:
                merged[key] = value
    return merged


class Exchange:
    """A request or an answer as openapi-core wants it (its two protocols, by shape)."""

    def __init__(self, method: str, url: str, headers: Mapping[str, str], body: bytes, status: int = 0) -> None:
        from openapi_core.datatypes import RequestParameters
        from werkzeug.datastructures import Headers, ImmutableMultiDict

        parts = urlsplit(url)
        query = parse_qs(parts.query, keep_blank_values=True)
        self.parameters = RequestParameters(
            query=ImmutableMultiDict([(name, value) for name, values in query.items() for value in values]),
            header=Headers(list(headers.items())),
        )
        self.host_url = f"{parts.scheme}://{parts.netloc}"
        self.path = parts.path
        self.method = method.lower()
        self.headers = Headers(list(headers.items()))
        self.body = self.data = body or None
        self.content_type = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
        self.status_code = status
        self.query_names = set(query)


@cache
def _strict_once() -> None:
    """openapi-core makes a class of its own for each schema it looks at, always the same: more than half of a fake's time."""
    from openapi_core.validation.schemas import factories

    factories.build_forbid_unspecified_additional_properties_validator = cache(
        factories.build_forbid_unspecified_additional_properties_validator
    )


class Contract:
    """``request`` and ``answer`` return what breaks the file, '' if nothing does."""

    def __init__(self, document: dict[str, Any], base: str) -> None:
        from openapi_core import Config, OpenAPI

        _strict_once()
        self.document = document
        document["servers"] = [{"url": base}]
        config = Config(spec_validator_cls=None, additional_properties_default_policy="forbid")
        self._api = OpenAPI.from_dict(document, config)

    def request(self, request: Exchange) -> str:
        from openapi_core.exceptions import OpenAPIError

        known = self._query_names(request)
        if unknown := request.query_names - known if known is not None else set():
            return f"unknown query parameters: {', '.join(sorted(unknown))}"
        try:
            self._api.validate_request(request)
        except OpenAPIError as error:
            return _why(error)
        return ""

    def answer(self, request: Exchange, answer: Exchange) -> str:
        from openapi_core.exceptions import OpenAPIError

        try:
            self._api.validate_response(request, answer)
        except OpenAPIError as error:
            return _why(error)
        return ""

    def _query_names(self, request: Exchange) -> set[str] | None:
        """The query parameters of an operation: openapi-core lets unknown ones pass."""
        for path, operations in self.document["paths"].items():
            parts, asked = path.split("/"), request.path.split("/")
            if len(parts) == len(asked) and all(a == b or a.startswith("{") for a, b in zip(parts, asked, strict=True)):
                operation = operations.get(request.method)
                if operation is not None:
                    everything = [*operations.get("parameters", []), *operation.get("parameters", [])]
                    return {each["name"] for each in everything if each["in"] == "query"}
        return None


def _why(error: Exception) -> str:
    """The error and what lies under it, on one line."""
    said: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        try:
            words = str(seen)[:300]
        except UnicodeDecodeError:  # openapi-core shows a body that is no text
            words = "a body that is no text"
        said.append(f"{type(seen).__name__}: {words}")
        said += [str(each.message) for each in getattr(seen, "schema_errors", ())]
        seen = seen.__cause__ or seen.__context__
    return "; ".join(said)[:2000]


def dump(document: Mapping[str, Any]) -> str:
    return json.dumps(document, default=str)
