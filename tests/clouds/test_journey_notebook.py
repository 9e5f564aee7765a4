"""The journey as a person at a notebook sees it: a real kernel, a real engine, a real machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dstack_jupyter.models.home import Home
from tests.clouds.core import Pure, RealClock
from tests.clouds.fixtures import TOKEN, Site, configure
from tests.clouds.journeys import Journey
from tests.magics.test_kernel import Kernel

CELL = """%%dstack apply -n cell -y
type: task
backends: [digitalocean]
image: local/busybox
commands:
  - echo hello from $(uname -s)
  - exit 3
max_duration: 10m
"""


Open = Callable[[], Kernel]


@pytest.fixture
def opened(home: Home, tmp_path: Path) -> Iterator[Open]:
    """Open a notebook, once the vendor is there that its engine will speak to."""
    made: list[Kernel] = []

    def open_one() -> Kernel:
        made.append(Kernel(tmp_path))
        assert made[-1].run("%load_ext dstack_jupyter").status == "ok"
        return made[-1]

    yield open_one
    for kernel in made:
        kernel.stop()


@pytest.mark.machines
@pytest.mark.timeout(300)
def test_a_cell_rents_a_machine_and_shows_the_log_of_its_container(begin: Callable[..., Journey], opened: Open) -> None:
    journey = begin()
    kernel = opened()
    output = kernel.run(CELL, timeout=150)
    assert "hello from Linux" in output.view, output
    assert "cell: failed" in output.view
    assert "/h" in output.stdout
    run = journey.client.run("cell")
    assert (run.exit_code, run.view.backend, run.raw()) == (3, "digitalocean", b"hello from Linux\n")
    assert "canary" not in output.stdout + output.view + output.html
    journey.nothing_left()


def test_a_cell_with_a_wrong_key_says_what_to_do(make_site: Callable[..., Site], opened: Open) -> None:
    site = make_site(backing=Pure(0.1, 0.2), clock=RealClock())
    configure("digitalocean", "dop_v1_wrongcanary")
    kernel = opened()
    output = kernel.run(CELL, timeout=60)
    said = output.stdout + output.view + output.error + output.stderr
    assert "DigitalOcean does not know this key" in said
    assert "`%dstack configure digitalocean` replaces it" in said
    assert "wrongcanary" not in said
    assert TOKEN not in said
    assert site.creates() == []
