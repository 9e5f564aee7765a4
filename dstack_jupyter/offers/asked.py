"""A query in the words of a user: the flags of `%dstack offers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from pydantic import ValidationError

from ..models.errors import ConfigurationError
from ..models.resources import Resources
from ..models.yaml_reader import flag_value
from .requirements import Requirements


class Asked(TypedDict, total=False):
    """What can be asked for. Resources are texts as in YAML: ``gpu="A100:80GB:1.."``, ``gpu="{total_memory: 160GB..}"``."""

    gpu: str | None
    cpu: str | None
    memory: str | None
    disk: str | None
    backends: Sequence[str]
    regions: Sequence[str]
    zones: Sequence[str]
    instance_types: Sequence[str]
    spot_policy: str | None
    """``spot``, ``on-demand``; anything else is both."""
    max_price: float | None
    """Dollars per hour."""


def requirements(asked: Asked) -> Requirements:
    """Raises ConfigurationError that names the flag."""
    given = {key: str(value) for key in ("gpu", "cpu", "memory", "disk") if (value := asked.get(key)) is not None}
    try:
        resources = Resources.model_validate({key: flag_value(key, value) for key, value in given.items()})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigurationError(f"--{first['loc'][0]} {given.get(str(first['loc'][0]))}: {message}") from None
    return Requirements(
        resources=resources,
        backends=tuple(asked.get("backends", ())),
        regions=tuple(asked.get("regions", ())),
        zones=tuple(asked.get("zones", ())),
        instance_types=tuple(asked.get("instance_types", ())),
        spot={"spot": True, "on-demand": False}.get(asked.get("spot_policy") or ""),
        max_price=asked.get("max_price"),
        defaults_filter=False,
    )
