"""Samples with every key of every configuration: they parse, every field is in one, editors accept them, the docs know them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel

from dstack_jupyter.backends.config import schema as schemas
from dstack_jupyter.backends.config.check import check
from dstack_jupyter.backends.config.file import load_config
from dstack_jupyter.backends.registry import CONFIGS
from dstack_jupyter.models.faults import members
from dstack_jupyter.models.yaml_reader import read_yaml
from dstack_jupyter.models.yaml_source import TYPES, load_configuration

ROOT = Path(__file__).resolve().parents[2]
RUNS = sorted((ROOT / "tests/models/samples").glob("*.yml"))
SERVER = ROOT / "tests/backends/samples/config.yml"
REFERENCE = ROOT.parent / "shared/reference/configuration.md"


@pytest.mark.parametrize("path", [*RUNS, SERVER], ids=lambda path: path.stem)
def test_it_is_valid_and_shows_no_secret(path: Path) -> None:
    found = check(path)
    assert found.valid, found.errors
    shown = json.dumps(found.to_json()) + repr(found)
    assert "canary" not in shown
    assert "***" in shown or "canary" not in path.read_text()


@pytest.mark.parametrize("path", [path for path in RUNS if path.stem != "profiles"], ids=lambda path: path.stem)
def test_what_was_given_parses_again_to_the_same(path: Path) -> None:
    first = load_configuration(path)
    again = load_configuration(json.dumps(first.given()))
    hidden = {"registry_auth"}  # a password is not given away, and neither is that of a group
    assert again.model_dump(exclude=hidden)["name"] == first.model_dump(exclude=hidden)["name"]
    if "registry_auth" not in path.read_text():
        assert again == first


def fields(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[tuple[str, str]]:
    if model in seen:
        return
    seen.add(model)
    for name, info in model.model_fields.items():
        yield model.__qualname__, name
        for inner in members(info.annotation):
            yield from fields(inner, seen)


def given(value: Any) -> Iterator[tuple[str, str]]:
    """(model, field) of everything that was set in an object."""
    if isinstance(value, BaseModel):
        for name in value.model_fields_set:
            yield type(value).__qualname__, name
            yield from given(getattr(value, name))
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from given(inner)


# Ends of a range and parts of a port are always set by the parser.
BY_PARSER = {("MemoryRange", "min"), ("MemoryRange", "max"), ("CountRange", "min"), ("CountRange", "max")}


def test_every_field_of_every_model_is_in_a_sample() -> None:
    declared: set[tuple[str, str]] = set()
    for kind in TYPES:
        declared |= set(fields(schemas.model(kind), set()))
    declared |= set(fields(schemas.model("profiles"), set()))
    seen: set[tuple[str, str]] = set(BY_PARSER)
    for path in RUNS:
        if path.stem == "profiles":
            seen |= set(given(schemas.model("profiles").model_validate(read_yaml(path.read_text()).data)))
        else:
            found = load_configuration(path)
            kind = type(found).__qualname__
            seen |= set(given(found))
            # A field that a base declares is tested once, wherever it is set.
            seen |= {(other, name) for (owner, name) in list(seen) if owner == kind for other in owners(name, declared)}
    assert "; ".join(map(str, sorted(declared - seen))) == ""


def owners(name: str, declared: set[tuple[str, str]]) -> list[str]:
    bases = {"TaskConfiguration", "DevEnvironmentConfiguration", "ServiceConfiguration", "FleetConfiguration", "Profile"}
    return [owner for owner, field in declared if field == name and owner in bases]


def test_every_field_of_every_backend_is_in_the_sample() -> None:
    found = load_config(SERVER)
    seen: set[tuple[str, str]] = set(given(found.root))
    for entries in found.backends.values():
        for config in entries.values():
            seen |= set(given(config))
    # Fields that name files are in the page's own blocks: see test_page.
    files = {"filename", "private_key_file", "key_file", "path"}
    declared: set[tuple[str, str]] = set(fields(schemas.model("config"), set()))
    for kind in CONFIGS:
        declared |= set(fields(schemas.model(kind), set()))
    alone = {("LocalConfig", "regions"), ("DstackConfig", "regions"), ("SlurmConfig", "regions"), ("KubernetesConfig", "regions")}
    assert sorted((model, name) for model, name in declared - seen - alone if name not in files) == []


@pytest.mark.parametrize("path", [*RUNS, SERVER], ids=lambda path: path.stem)
def test_an_editor_accepts_what_we_accept(path: Path) -> None:
    data = read_yaml(path.read_text()).data
    kind = data.get("type") or ("profiles" if "profiles" in data else "config")
    found = schemas.schema(kind)
    jsonschema.Draft202012Validator.check_schema(found)
    jsonschema.validate(data, found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**data, "no_such_key": 1}, found)


@pytest.mark.parametrize("kind", schemas.KINDS)
def test_every_schema_is_one(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas.schema(kind))


def test_our_own_keys_are_marked_in_the_schema() -> None:
    properties = schemas.schema("dev-environment")["properties"]
    assert "our own" in properties["budget"]["description"].lower()
    assert "our own" in properties["ide"]["description"].lower()


def test_the_reference_is_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, "tools/config_reference.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert made == (ROOT / "docs/config-reference.md").read_text(), "run `make docs`"


def test_no_field_of_the_reference_is_missing() -> None:
    if not REFERENCE.exists():
        assert not (os.environ.get("CI") and REFERENCE.parents[1].exists())
        pytest.skip("needs ../shared/reference/configuration.md")
    done = subprocess.run([sys.executable, "tools/field_table.py", str(REFERENCE)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, [line for line in done.stdout.splitlines() if "MISSING" in line]
    assert done.stdout.count("| yes |") > 250
