"""Whatever is in a YAML: a result, or errors with places; never a traceback, never a secret."""

from __future__ import annotations

import json

import pytest

from dstack_jupyter.backends.config.check import check
from dstack_jupyter.models.errors import LimitExceeded
from tests.models.fuzzing import texts


@pytest.mark.parametrize("seed", range(4))
def test_only_a_result_or_a_located_error(seed: int) -> None:
    valid = 0
    for text in texts(300, seed):
        try:
            found = check(text, file="fuzz.yml")
        except LimitExceeded:
            continue
        valid += found.valid
        assert found.valid or all(problem.file == "fuzz.yml" and problem.line >= 1 for problem in found.errors), found.errors
        # The canaries of the samples are values: none comes back, whatever was broken around them.
        assert "canary" not in json.dumps(found.to_json()["errors"] if found.errors else [])
    assert 0 < valid < 300
