"""YAML that is wrong, hostile or huge: one clear message with the place, quickly, and never a value of the environment."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_jupyter.models.configurations import TaskConfiguration, runnable
from dstack_jupyter.models.errors import ConfigurationError, LimitExceeded, NotFound, NotSupportedYet, Problem
from dstack_jupyter.models.yaml_reader import read_yaml
from dstack_jupyter.models.yaml_source import load_configuration


def problems(text: str, first_line: int = 1) -> list[Problem]:
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(text, file="run.yml", env={}, first_line=first_line)
    return caught.value.problems


def only(text: str) -> tuple[int, int, str, str]:
    (found,) = problems(text)
    return found.line, found.column, found.key, f"{found.message} ({found.hint})"


def test_a_task() -> None:
    task = load_configuration("type: task\ncommands:\n- python train.py\nenv: [HOME, A=1]\n", env={"HOME": "/h"})
    assert task.commands == ["python train.py"]
    assert task.env == {"HOME": "/h", "A": "1"}
    assert task.model_fields_set == {"type", "commands", "env"}


def test_every_fault_is_told_at_once_with_its_place() -> None:
    text = "type: task\nresouces: {gpu: 24GB}\ncommands: [x]\nretry: {duration: 1h30m}\nresources:\n  memory: 8GiB\n  cpus: 4\n"
    found = problems(text, first_line=2)
    assert [(each.line, each.column, each.key) for each in found] == [
        (3, 1, "resouces"),
        (5, 9, "retry.duration"),
        (7, 3, "resources.memory"),
        (8, 3, "resources.cpus"),
    ]
    assert found[0].hint == "did you mean 'resources'?"
    assert found[3].hint == "did you mean 'cpu'?"
    assert all(each.file == "run.yml" for each in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("commands: [x]", "type: is missing"),
        ("type: tsk\ncommands: [x]", "did you mean 'task'?"),
        ("type: [task]", "unknown type"),
        ("", "is empty"),
        ("- a", "is not a map"),
        ("type: task\ncomands: [x]", "did you mean 'commands'?"),
        ("type: task", "either commands or image is needed"),
        ("type: task\ncommands: [5]", "commands.0: expected text"),
        ("type: task\ncommands: [x]\nretry: 5", "expected a boolean or a map"),
        ("type: task\ncommands: [x]\nregistry_auth: {username: x}", "registry_auth.password: is missing"),
        ("type: task\ncommands: [x]\nenv: [A]", "env.0: A has no value"),
        ("a: 1\na: 2", "the key 'a' stands here twice"),
        ("a: [1\nb: 2", "expected ',' or ']'"),
        ("a:\n\t- b", "indent with spaces"),
        ("a: *b", "no anchor"),
        ("a: &a [*a]", "alias stand in its own anchor"),
        ("a: 1\n---\nb: 2", "second document"),
        ("a: !!python/object/apply:os.system ['true']", "this tag is not allowed"),
        ("a: !!python/name:os.system", "this tag is not allowed"),
        ("a: !!set {b, c}", "this tag is not allowed"),
        ("a: !!binary aGk=", "this tag is not allowed"),
        ("a: !own b", "this tag is not allowed"),
        ("a: !!int ''", "this value cannot be read"),
        ("a: !!bool perhaps", "this value cannot be read"),
        ("a: .inf", "finite"),
        ("[a, b]: c", "a key must be plain text"),
        ("a: b\x00c", "U+0000"),
        ("a: \ud800", "U+D800"),
    ],
)
def test_a_fault_is_one_clear_sentence(text: str, expected: str) -> None:
    (found,) = problems(text)
    assert expected in str(found)
    assert found.line >= 1 and found.column >= 1


@pytest.mark.parametrize(
    "text",
    [
        "type: service\nname: api\ncommands: [serve]\nport: 8000\n",
        "type: volume\nname: data\nbackend: aws\nregion: us-east-1\nsize: 100GB\n",
        "type: gateway\nname: door\nbackend: aws\nregion: us-east-1\n",
    ],
)
def test_what_is_not_built_parses_and_is_refused_when_applied(text: str) -> None:
    found = load_configuration(text)
    with pytest.raises(NotSupportedYet, match=found.type):
        runnable(found)


def test_merge_keys_and_anchors_work() -> None:
    data = read_yaml("a: &a {x: 1, y: 2}\nb: &b {y: 3}\nc: {<<: *a, x: 4}\nd: {<<: [*b, *a]}\ne: *a\n").data
    assert (data["c"], data["d"], data["e"]) == ({"x": 4, "y": 2}, {"y": 3, "x": 1}, {"x": 1, "y": 2})


def test_scalars_are_those_of_dstacks_yaml() -> None:
    data = read_yaml("[1, 1.5, true, off, ~, 0x10, '1', 2024-01-01, '=', =, 22:22, 8080:80, 1:30.5]").data
    assert data == [1, 1.5, True, False, None, 16, "1", "2024-01-01", "=", "=", "22:22", "8080:80", "1:30.5"]
    assert list(read_yaml("{on: 1, 2: 3, ~: 4}").data) == ["on", "2", "~"]


@pytest.mark.parametrize(
    "line",
    [
        "env: ['hunter2 hunter2']",
        "env: {A: [hunter2]}",
        "env: {A: *hunter2}",
        "env: {A: !hunter2 x}",
        "env: {A: 'hunter2'",
        'env: {A: "hunter2\\q"}',
        "env: [{A: hunter2}]",
        "env: hunter2",
        "env: {A: &hunter2 x, B: &hunter2 y}\nnope: 1",
        "registry_auth: {username: a, password: [hunter2]}",
        "resources: {memory: hunter2, gpu: {vendor: hunter2}}",
    ],
)
def test_no_message_repeats_a_value(line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(f"type: task\ncommands: [x]\n{line}\n")
    assert "hunter2" not in str(caught.value) + str(caught.value.envelope())


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)])


@pytest.mark.parametrize(
    "text",
    [
        bomb(),
        "[" * 500_000,
        "a: " + "{a: " * 200_000,
        "- " * 300_000,
        "[" * 60 + "]" * 60 + "\n" + "- a\n" * 200_000,
        "- a\n" * 200_000,
        "a: 1" + "0" * 500_000,
        "&a [" + "*a, " * 100_000 + "]",
        "? " * 100_000,
        "'" * 500_001,
        "%" * 500_000,
        "!" * 500_000,
    ],
    ids=[
        "bomb",
        "lists",
        "maps",
        "dashes",
        "both",
        "flat",
        "number",
        "self",
        "questions",
        "quotes",
        "directive",
        "tags",
    ],
)
def test_hostile_text_ends_quickly_in_one_message(text: str) -> None:
    begin = time.monotonic()
    (found,) = problems(text)
    assert found.line >= 1
    assert len(str(found)) < 300
    assert time.monotonic() - begin < 10


def test_a_large_text_is_refused_with_its_size() -> None:
    with pytest.raises(LimitExceeded, match=r"10\.0 MiB.*1 MiB"):
        load_configuration("#" * (10 << 20))


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big.yml"
    with path.open("wb") as file:
        file.truncate(10 << 40)  # sparse: reading it would take hours
    with pytest.raises(LimitExceeded, match=r"big\.yml has .* MiB"):
        load_configuration(path)


def test_a_file_without_an_end_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        load_configuration(Path("/dev/zero"))


def test_files_that_are_not_there_or_cannot_be_read(tmp_path: Path) -> None:
    good = tmp_path / "train.dstack.yml"
    good.write_text("\ufefftype: task\ncommands: [x]\n", encoding="utf-8")
    assert load_configuration(good).commands == ["x"]
    with pytest.raises(NotFound) as missing:
        load_configuration(tmp_path / "trian.dstack.yml")
    assert missing.value.hint == "did you mean train.dstack.yml?"
    with pytest.raises(NotFound):
        load_configuration(tmp_path / "nowhere" / "x.yml")
    with pytest.raises(ConfigurationError, match="is a folder"):
        load_configuration(tmp_path)
    (tmp_path / "latin.yml").write_bytes(b"type: task\nname: \xe9\n")
    with pytest.raises(ConfigurationError) as latin:
        load_configuration(tmp_path / "latin.yml")
    assert (latin.value.problems[0].line, latin.value.problems[0].column) == (2, 7)
    if os.getuid():
        good.chmod(0)
        with pytest.raises(ConfigurationError, match="cannot be read"):
            load_configuration(good)


FRAGMENTS = st.sampled_from(
    [
        "type: task",
        "commands:",
        "- a",
        "  ",
        "\n",
        "\t",
        "{",
        "}",
        "[",
        "]",
        ": ",
        ", ",
        "&a",
        "*a",
        "<<: *a",
        "!!int",
        "!x",
        "|",
    ]
    + [
        ">-",
        "'",
        '"',
        "#",
        "---",
        "...",
        "%YAML 1.1",
        "env: {A: b}",
        "resources:",
        "gpu: A100",
        "? ",
        "- ",
        "~",
        "1e9",
        "\\x",
        "é",
    ]
    + [
        "\u2028",
        "\ufeff",
        "\x07",
        "name: x",
        "retry: ",
        "0b_",
        "0x",
        "._",
        "12:30",
        "2024-01-01",
        "=",
        "ports: [1]",
        "yes",
    ]
)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.lists(FRAGMENTS, max_size=30).map("".join), st.text(max_size=60), st.binary(max_size=60).map(repr)))
def test_any_text_gives_a_task_or_an_error_with_a_place(text: str) -> None:
    try:
        load_configuration(text, env={})
    except ConfigurationError as error:
        assert error.problems
        assert all(problem.line >= 1 and problem.column >= 1 for problem in error.problems)
    except NotSupportedYet:
        pass


@settings(max_examples=500, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    ),
    st.sampled_from(sorted(TaskConfiguration.model_fields.keys() - {"type"})),
)
def test_any_value_of_any_key_gives_a_task_or_an_error_with_a_place(value: object, key: str) -> None:
    text = yaml.safe_dump({"type": "task", "commands": ["x"], key: value}, allow_unicode=True)
    try:
        load_configuration(text, env={})
    except ConfigurationError as error:
        assert error.problems
        assert all(problem.line >= 1 and problem.column >= 1 for problem in error.problems)
