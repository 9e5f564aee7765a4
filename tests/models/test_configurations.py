"""What a task may say, and what this version says about what it does not carry out yet."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from dstack_jupyter.models.configurations import (
    BUILT,
    DEAD,
    DevEnvironmentConfiguration,
    TaskConfiguration,
    notes,
    run_configuration,
    unsupported,
)


def task(**keys: Any) -> TaskConfiguration:
    return TaskConfiguration.model_validate({"type": "task", "commands": ["true"], **keys})


EVERYTHING_BUILT: dict[str, Any] = {
    "name": "train-1",
    "env": {"A": 1, "B": "x"},
    "working_dir": "src",
    "shell": "bash",
    "resources": {"cpu": "1..", "gpu": "A100:2"},
    "files": ["a.py", "data:/data", r"C:\data\a.csv:a.csv", {"local_path": "x", "path": "y"}],
    "repos": [".:repo"],
    "max_duration": "2h",
    "stop_duration": "1m",
    "max_price": 2.5,
    "spot_policy": "auto",
    "backends": ["local"],
    "regions": ["local"],
    "instance_types": ["local"],
    "tags": {"team": "nlp"},
}


def test_what_is_built_is_taken() -> None:
    found = task(**EVERYTHING_BUILT)
    assert unsupported(found) == []
    assert found.env == {"A": "1", "B": "x"}
    assert found.shell == "/bin/bash"
    assert [(each.local_path, each.path) for each in found.files] == [
        ("a.py", None),
        ("data", "/data"),
        (r"C:\data\a.csv", "a.csv"),
        ("x", "y"),
    ]
    assert (found.repos[0].local_path, found.repos[0].path) == (".", "repo")


@pytest.mark.parametrize("keys", [{}, EVERYTHING_BUILT, {"ports": ["80:8080", "*:1", 5]}, {"volumes": ["v:/v", "/h:/v"]}])
def test_a_dump_is_read_as_the_same(keys: dict[str, Any]) -> None:
    first = task(**keys)
    dumped = json.loads(json.dumps(first.model_dump(mode="json")))
    assert TaskConfiguration.model_validate(dumped).model_dump() == first.model_dump()
    assert unsupported(TaskConfiguration.model_validate(dumped)) == unsupported(first)


def test_what_was_given_does_not_grow_by_being_sent() -> None:
    sent = json.loads(json.dumps(task(resources={"gpu": "A100"}).given()))
    again = TaskConfiguration.model_validate(sent)
    assert again.resources.model_fields_set == {"gpu"}
    assert again.given() == sent


NOT_BUILT: list[tuple[dict[str, Any], str]] = [
    ({"python": 3.1}, "python"),
    ({"nvcc": True}, "nvcc"),
    ({"docker": True}, "docker"),
    ({"single_branch": True}, "single_branch"),
    ({"volumes": ["name:/path"]}, "volumes by name"),
    ({"groups": [{"name": "a", "nodes": 2}]}, "groups"),
    ({"dstack": True}, "dstack"),
    ({"budget": 10}, "budget"),
    ({"availability_zones": ["a"]}, "availability_zones"),
    ({"reservation": "r"}, "reservation"),
    ({"stop_duration": 0}, "stop_duration: 0"),
    ({"instances": ["i"]}, "instances"),
    ({"type": "dev-environment", "commands": [], "version": "1.90"}, "version"),
    ({"type": "dev-environment", "commands": [], "ide": "jupyter"}, "ide: jupyter"),
    ({"backend_options": [{"type": "vastai"}]}, "backend_options"),
    ({"pool_name": "p"}, "pool_name"),
    ({"instance_name": "i"}, "instance_name"),
    ({"retry_policy": {"retry": True}}, "retry_policy"),
    ({"termination_policy": "destroy-after-idle"}, "termination_policy"),
    ({"termination_idle_time": "5m"}, "termination_idle_time"),
    ({"repos": ["https://example.org/a/b"]}, "repos.url"),
    ({"repos": ["git@example.org:a/b.git:dest"]}, "repos.url"),
    ({"repos": [{"local_path": ".", "branch": "b"}]}, "repos.branch"),
    ({"repos": [{"local_path": ".", "hash": "h"}]}, "repos.hash"),
    ({"repos": [{"local_path": ".", "if_exists": "skip"}]}, "repos.if_exists"),
    ({"resources": {"gpu": {"compute_capability": "7.5"}}}, "resources.gpu.compute_capability"),
    ({"commands": ["echo ${{ run.args }}"]}, "commands: ${{ … }}"),
    ({"env": {"A": "${{ secrets.a }}"}}, "env: ${{ … }}"),
]


@pytest.mark.parametrize(("keys", "named"), NOT_BUILT)
def test_what_is_not_built_is_named(keys: dict[str, Any], named: str) -> None:
    if keys.get("type"):
        assert named in unsupported(run_configuration({key: value for key, value in keys.items() if value != []}))
        return
    assert named in unsupported(task(**keys))


def test_every_key_is_built_or_refused_or_noted() -> None:
    """A key that is added to the model and forgotten elsewhere would be ignored silently."""
    refused = {key for keys, _ in NOT_BUILT for key in keys} - BUILT | {"version"}
    assert set(TaskConfiguration.model_fields) | set(DevEnvironmentConfiguration.model_fields) == BUILT | set(DEAD) | refused


@pytest.mark.parametrize(
    "keys",
    [
        {"nodes": 1},
        {"priority": 0},
        {"creation_policy": "reuse-or-create"},
        {"startup_order": "any"},
        {"stop_criteria": "all-done"},
        {"retry": False},
        {"privileged": False},
        {"image": None},
        {"volumes": []},
    ],
)
def test_what_says_the_default_in_words_is_taken(keys: dict[str, Any]) -> None:
    assert unsupported(task(**keys)) == []


def test_dead_keys_are_noted() -> None:
    assert notes(task(home_dir="/x", tags={"a": "b"})) == [
        "home_dir has no effect, as in dstack",
        "tags are kept with the run; they are not put on machines at a vendor yet",
    ]


@pytest.mark.parametrize(
    "keys",
    [
        {"name": "A"},
        {"name": "a"},
        {"name": "1a"},
        {"name": "a" * 42},
        {"name": "a\n"},
        {"commands": []},
        {"commands": ["x" * 102_401]},
        {"commands": ["a\0b"]},
        {"env": {"1A": "x"}},
        {"env": ["A=1", "A=2"]},
        {"env": ["A-B=1"]},
        {"env": {"A": "x\0y"}},
        {"shell": "zsh"},
        {"image": "x", "python": "3.12"},
        {"docker": True, "python": "3.12"},
        {"python": "2.7"},
        {"nodes": 2, "groups": [{"nodes": 1}]},
        {"nodes": 0},
        {"user": ""},
        {"user": "a:b:c"},
        {"user": -1},
        {"ports": [0]},
        {"ports": [65536]},
        {"ports": ["a:1"]},
        {"volumes": ["name:rel"]},
        {"volumes": ["name"]},
        {"volumes": ["/a/../b:/c"]},
        {"volumes": [{"path": "/x"}]},
        {"repos": [".", "x"]},
        {"repos": [{"local_path": ".", "url": "https://x/y"}]},
        {"files": [""]},
        {"files": ["a:"]},
        {"files": [r"a:C:\b"]},
        {"max_price": 0},
        {"max_duration": 0},
        {"budget": -1},
        {"priority": 101},
        {"schedule": {"cron": "@daily"}},
        {"utilization_policy": {"min_gpu_utilization": 10, "time_window": "1m"}},
        {"spot_policy": "sometimes"},
        {"resouces": {}},
    ],
)
def test_what_is_no_task(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        task(**keys)


def test_long_commands_say_what_to_do() -> None:
    with pytest.raises(ValidationError, match="put them in a script"):
        task(commands=["x" * 60_000, "y" * 60_000])


def test_names_without_a_value_are_filled_from_the_caller() -> None:
    found = task(env=["A", "B=2"])
    assert found.resolve_env({}) == ["A"]
    assert found.env == {"A": None, "B": "2"}
    assert found.resolve_env({"A": "1"}) == []
    assert found.env == {"A": "1", "B": "2"}


def test_a_password_never_prints() -> None:
    found = task(registry_auth={"username": "u", "password": "hunter2"})
    assert "hunter2" not in repr(found) + json.dumps(found.model_dump(mode="json"))
