"""What the engine answers as DataFrames. Importing this loads no pandas; each function does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..models.fleets_view import FleetView
from ..models.instances import InstanceView
from ..models.runs import RunView

if TYPE_CHECKING:
    import pandas

RUNS = (
    "name", "state", "backend", "instance_type", "price", "cost", "submitted", "finished", "exit_code", "message", "user", "id",
)  # fmt: skip
FLEETS = (
    "fleet", "host", "state", "stuck", "runs", "backend", "region", "instance_type", "price", "cost", "cpus", "memory_gb",
    "disk_gb", "gpu_vendor", "gpu_name", "gpu_count", "gpu_memory_gb", "docker", "blocks", "busy_blocks", "host_key", "message",
)  # fmt: skip
MACHINES = (
    "identity", "fleet", "runs", "backend", "region", "instance_type", "spot", "state", "stuck", "stuck_since", "price", "cost",
    "guard", "user", "created", "rented", "ending", "finished", "message", "console", "id",
)  # fmt: skip
TIMES = {
    "stuck_since": "stuck_since",
    "created": "created_at",
    "rented": "rented_at",
    "ending": "ending_at",
    "finished": "finished_at",
}
"""Column of a machine → field of its view."""
MONEY = {"price": "float64", "cost": "float64"}
"""None is NaN: what is not known, and of hosts of one's own, which have no price."""


def of_runs(views: Sequence[RunView]) -> pandas.DataFrame:
    """One run a row; times are UTC."""
    import pandas as pd

    rows = [
        {
            **view.model_dump(
                include={"name", "backend", "instance_type", "price", "cost", "exit_code", "message", "user", "id"}
            ),
            "state": str(view.state),
            "submitted": pd.Timestamp(view.submitted_at, unit="s", tz="UTC"),
            "finished": pd.Timestamp(view.finished_at, unit="s", tz="UTC") if view.finished_at else pd.NaT,
        }
        for view in views
    ]
    return pd.DataFrame(rows, columns=list(RUNS)).astype({"exit_code": "Int64", **MONEY})


def of_fleets(fleets: Sequence[FleetView], machines: Sequence[InstanceView]) -> pandas.DataFrame:
    """One host or rented machine a row; a machine that is in both comes once."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {
            **host.model_dump(),
            "fleet": fleet.name,
            "host": host.hostname,
            "state": str(host.state),
            "runs": ", ".join(host.runs),
        }
        for fleet in fleets
        for host in fleet.hosts
    ]
    there = {row["id"]: row for row in rows}
    for machine in machines:
        names = {"host": machine.identity, "state": str(machine.state), "runs": ", ".join(machine.runs)}
        told = {**machine.model_dump(exclude={"guard"}), **names}
        if machine.id in there:
            there[machine.id].update(told)
        else:
            rows.append(told)
    return pd.DataFrame(rows, columns=list(FLEETS)).astype(MONEY)


def of_machines(machines: Sequence[InstanceView]) -> pandas.DataFrame:
    """One rented machine a row; times are UTC."""
    import pandas as pd

    rows = []
    for view in machines:
        row = view.model_dump() | {"runs": ", ".join(view.runs), "state": str(view.state), "guard": view.guard.text}
        rows.append(row | {column: row[name] for column, name in TIMES.items()})
    frame = pd.DataFrame(rows, columns=list(MACHINES)).astype(MONEY)
    for column in TIMES:
        frame[column] = pd.to_datetime(frame[column].astype("float64"), unit="s", utc=True)
    return frame
