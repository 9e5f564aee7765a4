"""The one secret type and the one filter."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import sys
import traceback

import pytest
from pydantic import BaseModel, ValidationError

from dstack_jupyter.backends.boundary import vendor_errors
from dstack_jupyter.backends.config import schema as schemas
from dstack_jupyter.models.base import Model
from dstack_jupyter.models.errors import BackendError, NotFound
from dstack_jupyter.models.faults import members
from dstack_jupyter.models.secret import Redacting, Secret, redact


class Holder(Model):
    key: Secret
    other: Secret | None = None


def test_nothing_shows_it() -> None:
    holder = Holder(key="canary-type-1")  # type: ignore[arg-type]
    secret = holder.key
    for text in (repr(holder), str(holder), f"{secret}", f"{secret!r}", json.dumps(holder.model_dump(mode="json"))):
        assert "canary" not in text
        assert "***" in text
    assert secret.reveal() == "canary-type-1"
    assert secret == Secret("canary-type-1") != Secret("canary-type-2")
    assert secret != "canary-type-1"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.deepcopy(secret)
    assert Holder.model_json_schema()["properties"]["key"] == {
        "type": "string",
        "format": "password",
        "writeOnly": True,
        "title": "Key",
    }


def test_no_fault_shows_it() -> None:
    with pytest.raises(ValidationError) as told:
        Holder(key="canary-type-3", other={"a": "canary-type-4"}, more="canary-type-5")  # type: ignore[arg-type, call-arg]
    assert "canary" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the key canary-filter-1 is wrong", "the key *** is wrong"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("{'x-api-key': 'abc'}", "{'x-api-key': '***'}"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nrest", "***\nrest"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE cut", "***"),
        ("nothing secret: token of appreciation", "nothing secret: token of appreciation"),
    ],
)
def test_the_filter(text: str, expected: str) -> None:
    Secret("canary-filter-1")
    Secret("a")  # too short to look for: it would eat every text
    assert redact(text) == expected


def test_log_lines_are_redacted_traceback_and_all() -> None:
    Secret("canary-log-1")
    try:
        raise ValueError("canary-log-1")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "said %s", ("canary-log-1",), sys.exc_info())
    text = Redacting("%(levelname)s %(message)s").format(record)
    assert "canary" not in text.replace("test_log", "")
    assert "said ***" in text
    assert "ValueError: ***" in text


class VendorError(Exception):
    pass


def test_a_vendor_s_error_becomes_ours_without_what_was_sent() -> None:
    Secret("canary-vendor-1")
    with pytest.raises(BackendError) as told, vendor_errors("aws"):
        raise VendorError("403 for key canary-vendor-1\nAuthorization: Bearer canary-vendor-2")
    assert told.value.message == "aws: VendorError: 403 for key ***"
    shown = "".join(traceback.format_exception(told.value))
    assert "VendorError: 403" not in shown.replace(str(told.value), "")
    assert told.value.__cause__ is None
    assert told.value.__suppress_context__
    with pytest.raises(NotFound), vendor_errors("aws"):
        raise NotFound("ours passes through")


def test_every_model_of_ours_hides_its_inputs() -> None:
    for kind in schemas.KINDS:
        pending: list[type[BaseModel]] = [schemas.model(kind)]
        while pending:
            found = pending.pop()
            assert found.model_config.get("hide_input_in_errors"), found
            pending += [inner for info in found.model_fields.values() for inner in members(info.annotation)]
