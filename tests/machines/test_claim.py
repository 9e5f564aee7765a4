"""claim.sh in a real shell: whose a host is, and that a claim which comes late leaves nothing behind."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from dstack_jupyter.machines.ssh.facts import script
from tests.simulated.world import Host, LoopTime

SHELLS = [pytest.param(words, id=words[0]) for words in (["sh"], ["bash"], ["busybox", "sh"]) if shutil.which(words[0])]


class Real:
    """The files of a host and the script that keeps them."""

    def __init__(self, shell: Sequence[str], folder: Path) -> None:
        self._shell = [*shell, "-c", script("claim.sh"), "dj"]
        self.file = folder / "claim"
        self.stones = folder / "stones"

    def words(self, verb: str, installation: str, instance: str) -> list[str]:
        return [*self._shell, verb, str(self.file), str(self.stones), installation, instance, f"fleet-{instance}"]

    def __call__(self, verb: str, installation: str, instance: str) -> list[str]:
        words = self.words(verb, installation, instance)
        return subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=30, check=True).stdout.split()


@pytest.fixture(params=SHELLS)
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Real:
    return Real(request.param, tmp_path)


def test_a_claim_that_comes_after_its_release_comes_to_nothing(host: Real) -> None:
    assert host("claim", "home", "i1") == ["ours"]
    assert host("release", "home", "i1") == ["released"]
    assert host("claim", "home", "i1") == ["late"]
    assert not host.file.exists()
    assert host("claim", "another", "i2") == ["ours"]


def test_a_release_that_comes_late_takes_nobody_else_s_claim(host: Real) -> None:
    assert host("claim", "home", "i1") == ["ours"]
    host("release", "home", "i1")
    assert host("claim", "home", "i2") == ["ours"]
    host("release", "home", "i1")
    who = host.file.read_text().split()
    assert (who[0], who[3]) == ("home", "i2")


def test_a_release_between_the_steps_of_a_claim_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim asks `id` after its first look for the stone and before it has written: just then the host is given back."""
    host = Real(["sh"], tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    release = shlex.join(host.words("release", "home", "i1"))
    (tools / "id").write_text(f'#!/bin/sh\n{release} >&2\nexec /usr/bin/id "$@"\n')
    (tools / "id").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    assert host("claim", "home", "i1") == ["late"]
    assert not host.file.exists()
    assert [each.name for each in host.stones.iterdir()] == ["home.i1"]


def test_the_simulated_host_does_what_the_script_does(tmp_path: Path) -> None:
    dice = random.Random(11)
    real, simulated = Real(["sh"], tmp_path), Host("h1", LoopTime())
    for _ in range(80):
        who = (dice.choice(["home", "another"]), dice.choice(["i1", "i2", "i3", "i4"]))
        if dice.random() < 0.35:
            assert real("release", *who) == ["released"]
            simulated.give_back(who)
        else:
            said = real("claim", *who)
            whose = simulated.take(who)
            expected = ["late"] if whose is None else ["ours"] if whose == who else ["theirs", *whose]
            assert (said[:1] + [said[1], said[4]] if len(said) > 1 else said) == expected
        if dice.random() < 0.1:  # stones are forgotten after a week
            simulated.released.clear()
            for stone in real.stones.glob("*"):
                stone.unlink()
        there = real.file.read_text().split() if real.file.exists() else None
        assert (there and (there[0], there[3])) == simulated.claim
