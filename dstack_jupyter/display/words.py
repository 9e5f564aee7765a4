"""Numbers and states as people read them. Pure functions, shared by cells, terminals and tables."""

from __future__ import annotations

from ..models.durations import format_duration
from ..models.fleets_view import FleetPlan, FleetView, HostView
from ..models.money import format_dollars
from ..models.offers import known
from ..models.runs import Attachment, Plan, RunView


def size(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def number(value: float | None) -> str:
    return "?" if known(value) is None else f"{value:g}"


def price(dollars_per_hour: float | None) -> str:
    if dollars_per_hour is None:
        return "a price that is not known"
    return "free" if dollars_per_hour == 0 else f"{format_dollars(dollars_per_hour, 4)}/h"


def run_line(view: RunView, now: float) -> str:
    """One line about a run: where it is, what it costs, how long it has taken, what it waits for or how it ended."""
    parts = []
    if view.backend:
        where = view.backend if view.instance_type in ("", view.backend) else f"{view.backend} {view.instance_type}"
        parts.append(f"on {where} ({price(view.price)})")
    parts.append(format_duration((view.finished_at or now) - view.submitted_at))
    if view.cost is None:
        parts.append("cost ?")
    elif view.cost:
        parts.append(f"cost {format_dollars(view.cost)}")
    if view.message:
        parts.append(view.message)
    elif view.exit_code:
        parts.append(f"exit code {view.exit_code}")
    parts += [condition.message for condition in view.conditions]
    parts += [f"{machine.identity}: {machine.stuck}" for machine in view.machines if machine.stuck]
    return " · ".join(parts)


def plan_line(plan: Plan) -> str:
    """A plan that costs nothing, in one line."""
    if not plan.offers:
        reasons = "; ".join(f"{line.backend}: {line.reason}" for line in plan.missing[:4])
        return f"no offer fits ({reasons})"
    first = plan.offers[0]
    gpu = f", {first.gpu_count} × {first.gpu_name}" if first.gpu_count else ""
    where = first.backend if first.instance_type in ("", first.backend) else f"{first.backend} {first.instance_type}"
    if plan.nodes > 1:
        where = f"{plan.nodes} × {where}"
    return (
        f"{plan.run_name}: {where} ({number(first.cpus)} CPUs, {number(first.memory_gb)} GB{gpu}), "
        f"{price(plan.price)}; guard: {plan.guard.text}"
    )


def fleet_plan_line(plan: FleetPlan) -> str:
    """What applying a fleet of clouds' machines would rent at once, in one line."""
    if not plan.more:
        return f"fleet {plan.name}: nothing is rented at once"
    if not plan.offers:
        reasons = "; ".join(f"{line.backend}: {line.reason}" for line in plan.missing[:4])
        return f"no offer fits ({reasons})"
    first = plan.offers[0]
    gpu = f", {first.gpu_count} × {first.gpu_name}" if first.gpu_count else ""
    what = f"{first.backend} {first.instance_type} ({number(first.cpus)} CPUs, {number(first.memory_gb)} GB{gpu})"
    return f"fleet {plan.name}: {plan.more} × {what}, {price(plan.price)} together"


def fleet_line(fleet: FleetView) -> str:
    """How many machines a fleet of clouds' machines has in which state, for how much, and why it is short."""
    states = [str(host.state) for host in fleet.hosts]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "no machines"
    least, most = fleet.nodes.get("min"), fleet.nodes.get("max")
    prices = [known(host.price) for host in fleet.hosts]
    cost = None if None in prices else sum(price or 0.0 for price in prices)
    short = f"; short: {fleet.message}" if fleet.message else ""
    return f"fleet {fleet.name}: {counted} of {least}..{'' if most is None else most}, {price(cost)}{short}"


def host_line(host: HostView) -> str:
    """One line about a host of a fleet: what it is, or why it cannot be used."""
    if host.message:
        return f"{host.hostname}: {host.message}"
    gpu = f", {host.gpu_count} × {host.gpu_name} {number(host.gpu_memory_gb)} GB" if host.gpu_count else ""
    blocks = f", {host.blocks} blocks" if host.blocks > 1 else ""
    runs = "Docker" if host.docker else "processes only"
    has = f"{number(host.cpus)} CPUs, {number(host.memory_gb)} GB{gpu}{blocks}"
    return f"{host.hostname}: {host.state} ({has}, {runs}), key {host.host_key}"


def attachment_lines(name: str, attachment: Attachment) -> list[str]:
    """How a running job is reached from the engine's machine."""
    lines = [f"port {forward.port} is at {forward.url}" for forward in attachment.forwards]
    if attachment.ssh_host:
        lines.append(f"ssh {attachment.ssh_host}   (once ~/.ssh/config begins with: {attachment.ssh_config})")
    if attachment.link:
        lines.append(f"open in {attachment.ide}: {attachment.link}")
    return [*lines, *attachment.notes]
