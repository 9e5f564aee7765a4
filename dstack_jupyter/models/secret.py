"""The one type of what must never be shown, and the one filter that takes it out of any text (D10)."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from typing import Any, NoReturn

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

SHOWN = "***"
SHORTEST = 6
"""Characters below which a text is too common to be looked for in other texts."""
MOST = 4096

_known: OrderedDict[str, None] = OrderedDict()

PEM = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL)
HEADER = re.compile(
    r"(?i)((?:proxy-)?authorization|x-api-key|x-registry-auth)([\"']?\s*[:=]\s*[\"']?)(?:(?:bearer|basic|token)\s+)?[^\s\"',]+"
)


class Secret:
    """A text that cannot be printed, compared by accident, pickled or dumped; ``reveal`` is the only way to it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value
        if len(value.strip()) >= SHORTEST:
            _known[value.strip()] = None
            _known.move_to_end(value.strip())
            while len(_known) > MOST:
                _known.popitem(last=False)

    def reveal(self) -> str:
        """The text itself. Called where it leaves for whom it is meant, and nowhere else."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({SHOWN!r})"

    def __str__(self) -> str:
        return SHOWN

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), core_schema.no_info_after_validator_function(cls, core_schema.str_schema())],
            mode="left_to_right",
            custom_error_type="secret",
            custom_error_message="expected text",
            serialization=core_schema.plain_serializer_function_ser_schema(lambda value: SHOWN, when_used="json"),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "format": "password", "writeOnly": True}


def redact(text: str) -> str:
    """``text`` without any secret that this process knows, without private keys and without authorization headers."""
    for value in reversed(_known):
        if value in text:
            text = text.replace(value, SHOWN)
    return HEADER.sub(rf"\1\2{SHOWN}", PEM.sub(SHOWN, text))


class Redacting(logging.Formatter):
    """A formatter that redacts the whole line, traceback included. For every handler that we make."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
