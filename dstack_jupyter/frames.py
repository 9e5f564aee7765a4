"""DataFrames of what the engine tells. pandas is imported when one is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .models.fleets_view import FleetView
from .models.runs import InstanceView, RunView

if TYPE_CHECKING:
    import pandas

FLEET_COLUMNS = (
    "fleet", "host", "state", "stuck", "runs", "backend", "region", "instance_type", "price", "cost", "cpus", "memory_gb",
    "disk_gb", "gpu_vendor", "gpu_name", "gpu_count", "gpu_memory_gb", "docker", "blocks", "busy_blocks", "host_key", "message",
)  # fmt: skip
MACHINE_TIMES = {
    "stuck_since": "stuck_since",
    "created": "created_at",
    "rented": "rented_at",
    "ending": "ending_at",
    "finished": "finished_at",
}
MACHINE_COLUMNS = (
    "identity", "fleet", "runs", "backend", "region", "instance_type", "spot", "state", "stuck", "stuck_since", "price", "cost",
    "guard", "user", "created", "rented", "ending", "finished", "message", "console", "id",
)  # fmt: skip


def fleets(views: Sequence[FleetView], rented: Sequence[InstanceView]) -> pandas.DataFrame:
    """As ``api.fleets``. A machine that is in both is shown once."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {
            **host.model_dump(),
            "fleet": fleet.name,
            "host": host.hostname,
            "state": str(host.state),
            "runs": ", ".join(host.runs),
            "backend": "ssh",
        }
        for fleet in views
        for host in fleet.hosts
    ]
    there = {row["id"] for row in rows}
    for machine in rented:
        if machine.id not in there:
            names = {"host": machine.identity, "state": str(machine.state), "runs": ", ".join(machine.runs)}
            rows.append({**machine.model_dump(exclude={"guard"}), **names})
    frame = pd.DataFrame(rows, columns=list(FLEET_COLUMNS))
    # Hosts of one's own have no price; what is not known of a rented one is not known.
    return frame.astype({"price": "float64", "cost": "float64"})


def machines(views: Sequence[InstanceView]) -> pandas.DataFrame:
    """As ``api.machines``."""
    import pandas as pd

    rows = [_machine(view) for view in views]
    frame = pd.DataFrame(rows, columns=list(MACHINE_COLUMNS)).astype({"price": "float64", "cost": "float64"})
    for column in MACHINE_TIMES:
        frame[column] = pd.to_datetime(frame[column].astype("float64"), unit="s", utc=True)
    return frame


def _machine(view: InstanceView) -> dict[str, Any]:
    row = view.model_dump() | {"runs": ", ".join(view.runs), "state": str(view.state), "guard": view.guard.text}
    return row | {column: row[name] for column, name in MACHINE_TIMES.items()}


def runs(views: Sequence[RunView]) -> pandas.DataFrame:
    """As ``api.ps``."""
    import pandas as pd

    rows = [
        {
            "name": view.name,
            "state": str(view.state),
            "backend": view.backend,
            "instance_type": view.instance_type,
            "price": view.price,
            "cost": view.cost,
            "submitted": pd.Timestamp(view.submitted_at, unit="s", tz="UTC"),
            "finished": pd.Timestamp(view.finished_at, unit="s", tz="UTC") if view.finished_at else pd.NaT,
            "exit_code": view.exit_code,
            "message": view.message,
            "user": view.user,
            "id": view.id,
        }
        for view in views
    ]
    columns = [
        "name",
        "state",
        "backend",
        "instance_type",
        "price",
        "cost",
        "submitted",
        "finished",
        "exit_code",
        "message",
        "user",
        "id",
    ]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype({"exit_code": "Int64", "price": "float64", "cost": "float64"})
