"""Live sources over real sockets: their age, their errors, their files, and that none of them is in a query's way."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from dstack_jupyter.backends import live
from dstack_jupyter.backends.base import Feed
from dstack_jupyter.backends.collect import collect
from dstack_jupyter.backends.found import Found
from dstack_jupyter.models.home import Home
from dstack_jupyter.models.resources import Resources
from dstack_jupyter.offers.requirements import Requirements
from tests.conftest import wait_until

from .vendors import columns, row, vendor

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("home")


def ask(*names: str, seconds: float = 0.0) -> Found:
    return collect(Requirements(Resources(), backends=names, defaults_filter=False), seconds=seconds)


def reasons(found: Found) -> dict[str, str]:
    return {line.backend: line.reason for line in found.missing}


def cached(home: Home, name: str) -> Path:
    (path,) = (home.cache / "offers").glob(f"{name}-*.json")
    return path


def other_process(*names: str) -> list[str]:
    """Instance types that another process of this user finds without waiting."""
    code = (
        "import sys; from tests.offers.vendors import *\n"
        "from dstack_jupyter.backends.collect import collect\n"
        "from dstack_jupyter.models.resources import Resources\n"
        "from dstack_jupyter.offers.requirements import Requirements\n"
        f"names = {names!r}\n"
        "m = sys.modules.setdefault(MODULE, types.ModuleType(MODULE))\n"
        "for n in names: setattr(m, n.title(), type(n.title(), (VendorBackend,), {'name': n}));"
        " registry.register(n, registry.Entry(n, 'vm', f'{MODULE}:{n.title()}'))\n"
        "found = collect(Requirements(Resources(), backends=names, defaults_filter=False))\n"
        "print(*found.rows.lists()['instance_type'])"
    )
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def test_the_first_query_does_not_wait_and_the_next_has_the_answer(home: Home) -> None:
    with vendor("acme", row("acme"), answers=False) as acme:
        first = ask("acme")
        assert (len(first.rows), first.pending) == (0, True)
        assert reasons(first) == {"acme": "its offers are being asked for"}
        acme.gate.set()
        second = ask("acme", seconds=20)
        assert second.rows.lists()["instance_type"] == ["gpu-1"]
        assert second.rows.lists()["price_date"] == [time.strftime("%Y-%m-%d", time.gmtime())]
        assert (second.missing, second.notes, len(acme.asked)) == ([], [], 1)
        for _ in range(5):
            ask("acme")
        assert len(acme.asked) == 1, "an answer that is fresh is not asked for again"


def test_a_dead_vendor_delays_nobody_and_is_told(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, vendor("acme", row("acme")), vendor("dead") as dead:
        dead.port = silent.getsockname()[1]  # accepts by its backlog, and never says a word
        os.environ["VENDOR_DEAD_PORT"] = str(dead.port)
        ask("acme", seconds=20)
        began = time.monotonic()
        for _ in range(20):
            found = ask("acme", "dead")
            assert found.rows.lists()["backend"] == ["acme"]
        assert time.monotonic() - began < 2
        assert sum(thread.name == "dj-offers-dead" for thread in threading.enumerate()) == 1
        wait_until(lambda: "does not answer" in reasons(ask("acme", "dead"))["dead"], what="its deadline")
        assert not ask("dead").pending, "a plan must not wait for what is overdue"


def test_all_sources_are_asked_at_once(home: Home) -> None:
    names = [f"acme{number}" for number in range(4)]
    with ExitStack() as stack:
        vendors = [stack.enter_context(vendor(name, row(name), answers=False)) for name in names]
        ask(*names)
        wait_until(lambda: all(each.asked for each in vendors), what="all of them, while none has answered")
        for each in vendors:
            each.gate.set()
        assert sorted(ask(*names, seconds=20).rows.lists()["backend"]) == names


def test_a_failure_is_told_and_not_repeated_by_each_query(home: Home) -> None:
    with vendor("acme", row("acme")) as acme:
        acme.status = 401
        for _ in range(5):
            found = ask("acme", seconds=20)
        (line,) = found.missing
        assert (line.reason, line.hint) == ("the key is not valid (401)", "make a new one")
        assert len(acme.asked) == 1


def test_after_a_failure_the_last_rows_stay_with_their_age(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with vendor("acme", row("acme"), feed=Feed(fresh=0.01)) as acme:
        ask("acme", seconds=20)
        acme.status = 500
        wait_until(lambda: ask("acme", seconds=20).notes, what="the failure")
        found = ask("acme", seconds=20)
        assert len(found.rows) == 1
        assert " s old: the key is not valid (500)" in found.notes[0].reason
        acme.status = 200
        wait_until(lambda: not ask("acme", seconds=20).notes, what="the recovery")


def test_an_old_answer_serves_while_a_newer_one_is_fetched(home: Home) -> None:
    with vendor("acme", row("acme")) as acme:
        ask("acme", seconds=20)
        path = cached(home, "acme")
        kept = json.loads(path.read_text())
        kept["asked_at"] -= 3 * 86400
        path.write_text(json.dumps(kept))
        live._lives.clear()  # as a kernel that starts after the weekend would find it
        acme.gate.clear()
        acme.answer = columns(row("acme", instance_type="gpu-2"))
        found = ask("acme")
        assert found.rows.lists()["instance_type"] == ["gpu-1"]
        assert found.notes[0].reason == "its offers are 3 days old; newer ones are being asked for"
        acme.gate.set()
        assert ask("acme", seconds=20).rows.lists()["instance_type"] == ["gpu-2"]


def test_answers_are_kept_for_other_processes_and_private(home: Home) -> None:
    with vendor("acme", row("acme")) as acme:
        ask("acme", seconds=20)
        assert stat.S_IMODE(cached(home, "acme").stat().st_mode) == 0o600
        assert stat.S_IMODE(cached(home, "acme").parent.stat().st_mode) == 0o700
        assert other_process("acme") == ["gpu-1"]
        assert len(acme.asked) == 1


@pytest.mark.parametrize(
    "wrong", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": 99}', b"\xff\xfe", b'{"format":1,"columns":3}']
)
def test_a_kept_file_that_makes_no_sense_is_written_anew(home: Home, wrong: bytes) -> None:
    with vendor("acme", row("acme")) as acme:
        ask("acme", seconds=20)
        cached(home, "acme").write_bytes(wrong)
        live._lives.clear()  # as a new process would find it
        assert ask("acme", seconds=20).rows.lists()["instance_type"] == ["gpu-1"]
        assert len(acme.asked) == 2
        assert json.loads(cached(home, "acme").read_text())["columns"]["price"] == [20.5]


def test_a_second_process_waits_for_the_first_ones_call(home: Home) -> None:
    with vendor("acme", row("acme"), answers=False) as acme:
        ask("acme")
        wait_until(lambda: acme.asked, what="the first call")
        path = cached_lock(home)
        second = subprocess.Popen(["flock", "-n", str(path), "true"])
        assert second.wait(20) == 1, "the lock is held while a call is under way"
        acme.gate.set()
        ask("acme", seconds=20)
        assert subprocess.run(["flock", "-w", "20", str(path), "true"]).returncode == 0


def cached_lock(home: Home) -> Path:
    (path,) = (home.cache / "offers").glob("acme-*.lock")
    return path


def test_many_threads_make_one_call(home: Home) -> None:
    with vendor("acme", row("acme"), answers=False) as acme:
        threads = [threading.Thread(target=ask, args=("acme",), kwargs={"seconds": 20.0}) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: acme.asked, what="the call")
        acme.gate.set()
        for thread in threads:
            thread.join()
        assert len(acme.asked) == 1


def test_another_account_is_another_answer(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with vendor("acme", row("acme")) as acme:
        ask("acme", seconds=20)
        monkeypatch.setenv("VENDOR_ACME_ACCOUNT", "two")
        assert not len(ask("acme").rows), "rows of another account are nobody's offers"
        ask("acme", seconds=20)
        assert acme.asked == ["/offers?account=one", "/offers?account=two"]
        assert "one" not in cached_names(home) and "two" not in cached_names(home)
        monkeypatch.setenv("VENDOR_ACME_ACCOUNT", "none")
        assert reasons(ask("acme")) == {"acme": "acme is not configured"}


def cached_names(home: Home) -> str:
    return " ".join(path.name for path in (home.cache / "offers").iterdir())


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ({}, "wrong columns"),
        ({**columns(row("acme")), "colour": ["red"]}, "wrong columns: colour"),
        ({**columns(row("acme")), "price": [1.0, 2.0]}, "its offers are no table"),
        ({**columns(row("acme")), "cpus": ["many"]}, "its offers are no table"),
        (columns(row("aws")), "offers of another backend"),
        ([1, 2], "acme: "),
    ],
)
def test_an_answer_that_is_no_table_is_told(home: Home, answer: object, reason: str) -> None:
    with vendor("acme") as acme:
        acme.answer = answer
        assert reason in reasons(ask("acme", seconds=20))["acme"]


def test_a_price_of_nothing_is_not_known(home: Home) -> None:
    with vendor("acme", row("acme", price=0), row("acme", price=None), row("acme", price=1.5)):
        found = ask("acme", seconds=20)
        assert [view.price for view in found.rows.views()] == [1.5, None, None], "free is what nobody is asked about"


def test_no_offers_at_all_are_said(home: Home) -> None:
    with vendor("acme") as acme:
        acme.answer = {name: [] for name in row("acme")}
        assert reasons(ask("acme", seconds=20)) == {"acme": "it has no offers"}


def test_where_nothing_can_be_written_answers_live_in_memory(home: Home) -> None:
    with vendor("acme", row("acme")) as acme:
        home.cache.joinpath("offers").write_text("in the way")
        assert len(ask("acme", seconds=20).rows) == 1
        assert len(ask("acme").rows) == 1
        assert len(acme.asked) == 1


def test_a_clock_that_was_set_back_makes_answers_old(home: Home) -> None:
    with vendor("acme", row("acme")) as acme:
        ask("acme", seconds=20)
        path = cached(home, "acme")
        kept = json.loads(path.read_text())
        kept["asked_at"] += 86400
        path.write_text(json.dumps(kept))
        ask("acme", seconds=20)
        wait_until(lambda: len(acme.asked) == 2, what="a new call")


REGISTERED = """
import sys, types
from tests.offers.vendors import MODULE, Feed, VendorBackend, registry
module = sys.modules.setdefault(MODULE, types.ModuleType(MODULE))
module.Acme = type("Acme", (VendorBackend,), {"name": "acme", "feed": Feed(deadline=20.0)})
registry.register("acme", registry.Entry("Acme", "vm", MODULE + ":Acme"))
"""


def test_a_shell_that_ends_hands_over_what_it_asks(home: Home, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(REGISTERED)
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}

    def shell() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dstack_jupyter", "offers", "-b", "acme"]
        return subprocess.run(
            command, env=env | {"VENDOR_ACME_PORT": os.environ["VENDOR_ACME_PORT"]}, capture_output=True, text=True
        )

    with vendor("acme", row("acme"), answers=False) as acme:
        first = shell()
        assert (first.returncode, first.stdout) == (0, "")
        assert "no offers of acme: its offers are being asked for" in first.stderr
        wait_until(lambda: acme.asked, what="the process that asks on")
        acme.gate.set()
        wait_until(lambda: list((home.cache / "offers").glob("acme-*.json")), what="the answer, after the shell is gone")
        assert "gpu-1" in shell().stdout


def test_the_process_that_takes_over_asks_and_keeps(home: Home) -> None:
    subprocess.run([sys.executable, "-m", "dstack_jupyter.backends.live", "local", "unheard-of"], check=True)
    kept = json.loads(cached(home, "local").read_text())
    assert kept["columns"]["instance_type"] == ["local"]
    assert time.time() - kept["asked_at"] < 60


def test_a_plan_waits_for_a_first_answer_only_if_nothing_else_fits(home: Home) -> None:
    from dstack_jupyter.engine.provisioning.offers import find
    from dstack_jupyter.models.configurations import TaskConfiguration

    no_hosts: dict[str, list[object]] = {name: [] for name in row("ssh")}
    small = TaskConfiguration.model_validate({"commands": ["x"], "backends": ["local", "acme"]})
    # Local would fit, but cannot be had by a run that asks for a container.
    large = TaskConfiguration.model_validate({"image": "cuda", "backends": ["local", "acme"]})
    with vendor("acme", row("acme"), feed=Feed(deadline=20.0), answers=False) as acme:
        offers, missing = find(small, {"ssh": no_hosts}, {})
        assert [offer.backend for offer in offers] == ["local"]
        assert [line.reason for line in missing] == ["its offers are being asked for"]
        found: list[str] = []
        plan = threading.Thread(target=lambda: found.extend(offer.backend for offer in find(large, {"ssh": no_hosts}, {})[0]))
        plan.start()
        wait_until(lambda: acme.asked, what="the question")
        acme.gate.set()
        plan.join(20)
        assert found == ["acme"]
