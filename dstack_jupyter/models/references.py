"""What several configurations name in the same way: machines by fleet, tags, entity references.

Facts: reference ``configuration`` §2.5, §4.2, §4.4.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, model_validator

from .base import Model

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
TAG_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")
TAG_VALUE = re.compile(r"[A-Za-z0-9 .:/=_\-+@]{0,256}")
MOST_TAGS = 25


def _reference(value: str) -> str:
    if not re.fullmatch(f"(?:{NAME}/)?{NAME}", value):
        raise ValueError("expected a name or project/name")
    return value


EntityReference = Annotated[str, AfterValidator(_reference)]
"""``name`` or ``project/name``."""


def _entity(value: object) -> object:
    """The newer object form ``{project?, name}`` as text."""
    if isinstance(value, dict) and set(value) <= {"project", "name"} and isinstance(value.get("name"), str):
        project = value.get("project")
        return f"{project}/{value['name']}" if project else value["name"]
    return value


FleetReference = Annotated[EntityReference, BeforeValidator(_entity)]


class InstanceReference(Model):
    """One machine: by ``name``, by ``hostname``, or by number in a fleet."""

    name: str | None = None
    hostname: str | None = None
    fleet: FleetReference | None = None
    instance: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_way(self) -> InstanceReference:
        ways = (self.name is not None, self.hostname is not None, self.fleet is not None)
        if sum(ways) != 1 or (self.fleet is None) != (self.instance is None):
            raise ValueError("exactly one of name, hostname, or fleet with instance is needed")
        return self


def _tags(value: dict[str, str]) -> dict[str, str]:
    if len(value) > MOST_TAGS:
        raise ValueError(f"at most {MOST_TAGS} tags")
    for key, text in value.items():
        if not TAG_KEY.fullmatch(key):
            raise ValueError(f"the tag's key {key[:60]!r} is not of 1 to 60 letters, digits, _ or -")
        if not TAG_VALUE.fullmatch(text):
            raise ValueError(f"the value of the tag {key!r} is not of at most 256 letters, digits, spaces or . : / = _ - + @")
    return value


def _texts(value: Any) -> Any:
    """Numbers that YAML made of text."""
    if isinstance(value, dict):
        return {key: str(text) if type(text) in (int, float) else text for key, text in value.items()}
    return value


Tags = Annotated[dict[str, str], BeforeValidator(_texts), AfterValidator(_tags)]
