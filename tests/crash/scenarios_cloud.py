"""Stories of fleets of a simulated vendor's machines, and of runs that share them."""

from __future__ import annotations

from typing import Any

from dstack_jupyter.engine.engine import Engine
from dstack_jupyter.models.errors import Conflict
from dstack_jupyter.models.fleets_view import FleetRequest, FleetView
from dstack_jupyter.models.runs import PlanRequest
from tests.simulated.world import World

from .scenarios import LOG, UP, Scenario
from .scenarios_rented import prepared
from .story import Step, Story, apply, follow, give_back, happens, look_back, pause, says, stop, wait

SIMULATED: dict[str, Any] = {"backends": ["simulated"]}
POOL: dict[str, Any] = {**SIMULATED, "fleets": ["pool"]}
AGAIN = {"on_events": ["no-capacity"], "duration": "1h"}


def cloud_fleet(name: str = "pool", nodes: Any = 1, **more: Any) -> Step:
    """Apply a fleet and wait until it has its least number of machines."""
    configuration = {"type": "fleet", "name": name, "nodes": nodes, **SIMULATED, **more}

    async def step(engine: Engine, story: Story) -> None:
        view = await engine.service.fleets.apply(FleetRequest(configuration=configuration), user="ada")
        least = view.nodes["min"] or 0

        async def there() -> bool:
            view = await _view(engine, name)
            story.note = str([(host.state, host.message) for host in view.hosts]) + view.message
            return sum(host.state in ("idle", "busy") for host in view.hosts) >= least

        await wait(f"{least} machines of {name}", there)

    return step


async def _view(engine: Engine, name: str) -> FleetView:
    return await engine.service.fleets.get(name, project="main")


def has(count: int, name: str = "pool") -> Step:
    """Wait until a fleet has so many machines that are ready, and no others."""

    async def step(engine: Engine, story: Story) -> None:
        async def there() -> bool:
            view = await _view(engine, name)
            story.note = str([(host.state, host.message) for host in view.hosts]) + view.message
            ready = [host for host in view.hosts if host.state in ("idle", "busy")]
            return len(ready) == len(view.hosts) == count

        await wait(f"{count} machines of {name}", there)

    return step


def short(name: str, why: str) -> Step:
    """Wait until a fleet says why it has too few machines."""

    async def step(engine: Engine, story: Story) -> None:
        async def told() -> bool:
            return why in (await _view(engine, name)).message

        await wait(f"{name} to say {why}", told)

    return step


def made(count: int) -> Step:
    """So many machines were made altogether until now."""

    async def step(engine: Engine, story: Story) -> None:
        found = len(story.world.vms)
        assert found == count, f"{found} machines were made, not {count}"

    return step


def living(count: int) -> Step:
    async def step(engine: Engine, story: Story) -> None:
        async def there() -> bool:
            return sum(vm.gone is None for vm in story.world.vms) == count

        await wait(f"{count} living machines", there)

    return step


def refused(name: str, **change: Any) -> Step:
    """A change that holds for machines that are there is refused."""

    async def step(engine: Engine, story: Story) -> None:
        configuration = {"type": "fleet", "name": name, "nodes": 1, **SIMULATED, **change}
        try:
            await engine.service.fleets.apply(FleetRequest(configuration=configuration), user="ada")
        except Conflict as error:
            assert next(iter(change)) in error.message
        else:
            raise AssertionError("it was taken")

    return step


async def delete_refused(engine: Engine, story: Story) -> None:
    try:
        await engine.service.fleets.delete("pool", project="main", user="ada")
    except Conflict as error:
        assert "first" in error.message
    else:
        raise AssertionError("a fleet with a job was deleted")


def planned(availability: str, **configuration: Any) -> Step:
    """What the first offer of a plan is."""

    async def step(engine: Engine, story: Story) -> None:
        request = PlanRequest(configuration={"type": "task", "commands": ["x"], **SIMULATED, **configuration})
        plan = await engine.service.plan(request)
        found = plan.offers[0].availability if plan.offers else " ".join(line.reason for line in plan.missing)
        assert availability in found, found

    return step


def _taken_away(world: World) -> None:
    next(vm for vm in world.vms if vm.gone is None).off = True
    world.end(next(vm for vm in world.vms if vm.gone is None))


def _restocked(world: World) -> None:
    world.faults.sold_out = set()


def _story(name: str, *steps: Step, ends: dict[str, str] | None = None, stopped: bool = False, **faults: Any) -> Scenario:
    """``stopped``: the first run may never have been executed."""
    states = ends or {}
    bodies = {run: 0 if state == "failed" else 1 for run, state in states.items()}
    open_end = frozenset({"first"} if stopped else ())
    return Scenario(
        name, (*steps, give_back("pool"), living(0)), states, bodies, prepare=prepared("look", faults), open_end=open_end
    )


EVERYWHERE = {"here sim-1", "there sim-1", "there sim-2"}
DONE = {"first": "done", "other": "done"}

CLOUD = (
    _story("a fleet is filled, and ended when it is deleted", cloud_fleet(nodes=2), made(2)),
    _story("a fleet takes the next offer where one is sold out", cloud_fleet(nodes=2), made(2), sold_out_after={"here sim-1": 1}),
    _story("a cluster moves to another region as a whole", cloud_fleet(nodes=2, placement="cluster"), living(2),
           sold_out_after={"here sim-1": 1}),
    _story("a fleet that is short says why and tries again", cloud_fleet(nodes="0..2"),
           cloud_fleet(nodes={"min": 0, "target": 1, "max": 2}), short("pool", "sold out"),
           happens("restocked", _restocked), has(1), sold_out=set(EVERYWHERE)),
    _story("a machine that is lost is replaced", cloud_fleet(), happens("lost", _taken_away), living(1), has(1), made(2)),
    _story("idle machines go down to the least number", cloud_fleet(nodes={"min": 1, "target": 2}, idle_duration=60), has(2),
           pause(70), has(1), living(1), pause(300), has(1)),
    _story("an idle machine of a fleet that says off stays", cloud_fleet(nodes={"min": 0, "target": 1}, idle_duration="off"),
           has(1), pause(4000), has(1)),
    _story("nodes are changed in place", cloud_fleet(), cloud_fleet(nodes=2), made(2), cloud_fleet(nodes=1), has(1), living(1),
           refused("pool", regions=["there"])),
    _story("runs take turns on one machine", cloud_fleet(), planned("idle"),
           apply("first", *LOG, **SIMULATED), follow("first"), apply("other", *LOG, **SIMULATED), follow("other"), look_back,
           made(1), ends=DONE),
    _story("two runs at once never get one machine", cloud_fleet(),
           apply("first", *LOG, **SIMULATED), apply("other", *LOG, **SIMULATED), follow("first"), follow("other"), look_back,
           made(2), ends=DONE),
    _story("a run that reuses only waits for the machine", cloud_fleet(),
           apply("first", *UP, **SIMULATED), says("first", b"up\n"),
           planned("creation_policy", creation_policy="reuse"),
           apply("other", *LOG, creation_policy="reuse", retry=AGAIN, **SIMULATED), pause(5), delete_refused, stop("first"),
           follow("first"), follow("other"), made(1), ends={"first": "terminated", "other": "done"}),
    _story("nodes of a run on machines of one fleet", cloud_fleet(nodes=2), apply("first", *LOG, nodes=2, **SIMULATED),
           follow("first"), made(2), has(2), ends={"first": "done"}),
    _story("a job's machine is lost", cloud_fleet(), apply("first", *UP, **SIMULATED), says("first", b"up\n"),
           happens("lost", _taken_away), follow("first"), has(1), made(2), ends={"first": "failed "}),
    _story("a run dearer than it may be takes no idle machine", cloud_fleet(),
           apply("first", *LOG, max_price=0.5, **SIMULATED), follow("first"), made(1), ends={"first": "failed"}),
    _story("a run's machine waits for the next run, then goes",
           apply("first", *LOG, idle_duration=120, **SIMULATED), follow("first"), pause(60), planned("idle"),
           apply("other", *LOG, **SIMULATED), follow("other"), made(1), living(1), pause(100), living(1), living(0), made(1),
           ends=DONE),
    _story("a machine that is kept is lost", apply("first", *LOG, idle_duration=600, **SIMULATED), follow("first"), living(1),
           happens("lost", _taken_away), pause(200), apply("other", *LOG, **SIMULATED), follow("other"), made(2), ends=DONE),
    _story("a run makes the fleet that it names grow", cloud_fleet(nodes="1..2", idle_duration=100),
           apply("first", *UP, **POOL), says("first", b"up\n"), planned("available", fleets=["pool"]),
           apply("other", *LOG, **POOL), follow("other"), made(2), has(2),
           stop("first"), follow("first"), pause(200), has(1), living(1), made(2),
           ends={"first": "terminated", "other": "done"}),
    _story("a cluster grows where it is", cloud_fleet(nodes="1..2", idle_duration=100, placement="cluster"),
           apply("first", *UP, **POOL), says("first", b"up\n"), apply("other", *LOG, **POOL), follow("other"), made(2),
           stop("first"), follow("first"), ends={"first": "terminated", "other": "done"}, sold_out={"here sim-1"}),
    _story("a fleet grows by all nodes of a run", cloud_fleet(nodes="0..2", idle_duration=100),
           apply("first", *LOG, nodes=2, **POOL), follow("first"), made(2), has(2), apply("other", *LOG, **POOL), follow("other"),
           made(2), ends=DONE),
    _story("a machine that a fleet got for a run that was stopped is the fleet's", cloud_fleet(nodes="0..1", idle_duration=600),
           apply("first", *LOG, **POOL), pause(3), stop("first"), follow("first"), has(1), apply("other", *LOG, **POOL),
           follow("other"), made(1), ends={"first": "terminated", "other": "done"}, stopped=True),
    _story("a fleet that cannot grow any more has nothing for a run", cloud_fleet(nodes=1),
           apply("first", *UP, **POOL), says("first", b"up\n"), apply("other", *LOG, **POOL), follow("other"), stop("first"),
           follow("first"), made(1), ends={"first": "terminated", "other": "failed"}),
)  # fmt: skip
