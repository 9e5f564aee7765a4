"""Whatever text a user gives, the job gets it byte for byte, through every shell that may run it; or it is refused by name."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_jupyter.machines.base import JobSpec
from dstack_jupyter.machines.job_folder import ENV_NAME, commands_file, env_script
from dstack_jupyter.machines.shells import command_script, quote
from dstack_jupyter.machines.ssh.host import shell
from dstack_jupyter.models.errors import ConfigurationError

SHELLS = [["/bin/sh"], ["bash"], ["busybox", "sh"]]
EVIL = [
    "'",
    '"',
    "$(touch canary)",
    "`id`",
    "\\",
    "\n",
    "\r",
    "\x1b",
    "!",
    "~",
    "*",
    "\u202e",
    "\ud800",
    "'\\''",
    "-n",
    " ",
    ";",
    "\x7f",
]
TEXTS = st.lists(st.one_of(st.sampled_from(EVIL), st.text(st.characters(exclude_characters="\0"), max_size=6)), max_size=8).map(
    "".join
)


def ran(command: list[str], script: str, *arguments: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "script"
        file.write_bytes(script.encode("utf-8", "surrogateescape" if _bytes(script) else "surrogatepass"))
        done = subprocess.run([*command, str(file), *arguments], capture_output=True, cwd=folder, env={"PATH": "/usr/bin:/bin"})
        assert done.returncode == 0, done.stderr
        assert sorted(path.name for path in Path(folder).iterdir()) == ["script"]
    return done.stdout


def _bytes(text: str) -> bool:
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize("command", SHELLS, ids=lambda command: command[0])
@settings(max_examples=60, deadline=None)
@given(values=st.lists(TEXTS.filter(_bytes), min_size=1, max_size=12))
def test_values_of_variables(command: list[str], values: list[str]) -> None:
    assert shutil.which(command[0]), f"{command[0]} is missing: .ci/run installs it"
    env = {f"V{number}": value for number, value in enumerate(values)}
    # A child sees them as the job does, not only the shell that read the lines.
    script = env_script(env) + "".join(f"printenv {name}; printf '\\0'\n" for name in env)
    expected = b"".join(value.encode("utf-8", "surrogateescape") + b"\n\0" for value in values)
    assert ran(command, script) == expected


@pytest.mark.parametrize("command", SHELLS, ids=lambda command: command[0])
@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXTS.filter(_bytes), min_size=1, max_size=12))
def test_words_and_commands(command: list[str], texts: list[str]) -> None:
    commands = [f"printf '%s\\0' {quote(each)} # a comment" for each in texts]
    assert ran(command, command_script(commands)) == b"".join(each.encode("utf-8", "surrogateescape") + b"\0" for each in texts)


@pytest.mark.parametrize("command", SHELLS, ids=lambda command: command[0])
@settings(max_examples=30, deadline=None)
@given(text=TEXTS.filter(_bytes))
def test_what_a_job_runs_is_handed_over_by_a_file(command: list[str], text: str) -> None:
    job = JobSpec("a1", [], {}, argv=("not this", text))
    assert ran(command, commands_file(job) + "printf '%s' \"$2\"", "not", "these") == text.encode("utf-8", "surrogateescape")


@settings(max_examples=60, deadline=None)
@given(TEXTS.filter(_bytes))
def test_a_line_for_a_host_is_one_word_of_its_login_shell(text: str) -> None:
    line = shell(f"printf '%s' {quote(text)}")
    for command in SHELLS:
        out = subprocess.run([*command, "-c", line.encode("utf-8", "surrogateescape")], capture_output=True).stdout
        assert out.endswith(text.encode("utf-8", "surrogateescape")), (command, line)


@settings(max_examples=300)
@given(st.text(max_size=8))
def test_a_name_of_a_variable_is_a_name_or_refused(name: str) -> None:
    if ENV_NAME.fullmatch(name):
        assert env_script({name: "x"}) == f"export {name}='x'\n"
        assert name.isascii()
        return
    with pytest.raises(ConfigurationError, match="cannot be the name"):
        env_script({name: "x"})


def test_nul_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="NUL"):
        quote("a\0b")
