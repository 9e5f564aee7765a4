"""An offer of which only the name is known goes all the way from the plan to the job and the screen, and nothing raises."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dstack_jupyter.backends.collect import collect
from dstack_jupyter.display.offers import groups_text, offers_text
from dstack_jupyter.display.words import fleet_line, fleet_plan_line, host_line, plan_line
from dstack_jupyter.engine.jobs.spec import JobMaker
from dstack_jupyter.engine.provisioning.offers import checked, make_plan
from dstack_jupyter.engine.provisioning.placement import blocks_needed
from dstack_jupyter.engine.service.fleets import price_of
from dstack_jupyter.engine.steps.costs import cost
from dstack_jupyter.engine.store.rows import InstanceData
from dstack_jupyter.models.fleets_view import FleetPlan, FleetView, HostView
from dstack_jupyter.models.offers import OfferView
from dstack_jupyter.models.states import FleetState, InstanceState
from dstack_jupyter.models.stored import StoredRun
from dstack_jupyter.offers.frame import to_frame
from dstack_jupyter.offers.groups import group
from dstack_jupyter.offers.requirements import Requirements

from .vendors import columns, row

pytestmark = pytest.mark.usefixtures("home")
SIZES = ("cpus", "memory_gb", "disk_gb", "gpu_memory_gb", "price")
TASK: dict[str, Any] = {
    "type": "task",
    "backends": ["ssh"],
    "commands": ["true"],
    "resources": {"cpu": "2..", "memory": "4GB..", "gpu": "0..1"},
}


@pytest.mark.parametrize("unknown", [None, float("nan")], ids=["none", "nan"])
@pytest.mark.parametrize("gpus", [0, 2])
def test_an_offer_of_unknown_size_and_price_raises_nowhere(unknown: float | None, gpus: int) -> None:
    stored = row("ssh", gpu_count=gpus, total_blocks=4, blocks=4) | dict.fromkeys(SIZES, unknown)
    task = checked(TASK)
    found = collect(Requirements.of_task(task), {"ssh": columns(stored)})
    offers = [offer for offer in found.rows.views() if offer.backend == "ssh"]
    assert [getattr(offers[0], name) for name in SIZES] == [None] * 5

    plan = make_plan(task, offers, [], 3, "main")
    assert (plan.price, plan.max_cost) == (None, None)
    assert "? CPUs, ? GB" in plan_line(plan) and "not known" in plan_line(plan)
    assert blocks_needed(task, OfferView(**stored), 4) == 4, "a share of what is not known may be all of it"
    assert blocks_needed(checked({"type": "task", "commands": ["true"]}), OfferView(**stored), 4) == 1

    run: Any = SimpleNamespace(id="r", name="run", configuration=StoredRun(TASK), context={}, code=[], registry_password=None)
    keys: Any = SimpleNamespace()
    data = InstanceData.of({"docker": True, "blocks": 4, "address": {"hostname": "h"}})
    instance: Any = SimpleNamespace(backend="ssh", offer=OfferView(**stored), data=data)
    attempt: Any = SimpleNamespace(id="a", job=0, job_id="j")
    spec = JobMaker(Path, keys).spec(attempt, run, instance, [(attempt, instance)], [0, 1])
    assert spec.container is not None and (spec.container.cpus, spec.container.memory) == (0.0, 0)

    rows = found.rows
    assert "? CPUs, ? GB" in offers_text(rows.lists(), 1)[1]
    assert offers_text({name: [value] for name, value in offers[0].model_dump().items()}, 1)
    assert to_frame(rows)["price"].isna().all() and to_frame(rows)["price_per_gpu"].isna().all()
    assert len(groups_text(group(rows, ("gpu",)), gpus and 1)) == gpus
    assert found.json()["offers"][0]["price"] is None

    # What a program keeps may hold either; the model knows None only.
    view = OfferView(**stored)
    assert [getattr(view, name) for name in SIZES] == [None] * 5
    assert price_of([view], 2) is None and cost(view.price, 0.0, 10.0) is None
    fleet = FleetPlan(name="f", offers=[view], missing=[], more=2, price=None, notes=[], total_offers=1)
    assert "a price that is not known" in fleet_plan_line(fleet)
    shown = {name: stored[name] for name in SIZES if name != "price"}
    host = HostView(id="i", hostname="h", state=InstanceState.IDLE, backend="sim", price=unknown, gpu_count=gpus, **shown)
    assert "(? CPUs, ? GB" in host_line(host)
    line = fleet_line(
        FleetView(id="f", project="main", name="f", state=FleetState.ACTIVE, kind="cloud", created_at=0.0, hosts=[host])
    )
    assert "a price that is not known" in line
