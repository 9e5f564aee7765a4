"""Runs as they cross the wire: what a client sends, what the engine answers, the frames of a stream.

Times are seconds since the epoch, UTC, as float; durations seconds; money US dollars, prices dollars per hour.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from .base import WireModel
from .instances import Guard, InstanceView
from .offers import Missing, OfferView
from .states import RUN_END, AttemptState, RunState


class Context(WireModel):
    """Where a submission comes from. ``python`` is the caller's interpreter: `local` puts its folder first on PATH."""

    cwd: str
    python: str = ""
    session: str = ""


class CodeRef(WireModel):
    """An uploaded tar archive (``PUT /code/<sha256>``) and the folder it unpacks to, relative to the job's working folder."""

    sha256: str
    path: str = "."


class PlanRequest(WireModel):
    configuration: dict[str, Any]
    project: str = "main"
    max_offers: int = 3


class Plan(WireModel):
    """What ``apply`` would do. ``configuration`` is normalised: every default filled, the run's name chosen."""

    configuration: dict[str, Any]
    run_name: str
    offers: list[OfferView]
    total_offers: int
    missing: list[Missing] = []
    price: float | None = 0.0
    """Dollars per hour of all nodes on the cheapest offer, which is tried first; 0 without an offer, None if it is not known."""
    max_cost: float | None = None
    """Dollars at most, where max_duration bounds it."""
    guard: Guard
    notes: list[str] = []
    active_run: str = ""
    """Id of the active run that already has this name; then ``apply`` would be refused."""

    @property
    def nodes(self) -> int:
        """Machines that the run takes at once."""
        return int(self.configuration.get("nodes") or 1)


class ApplyRequest(WireModel):
    configuration: dict[str, Any]
    project: str = "main"
    request_key: str
    """Made by the client, one for each execution of a cell: the same key twice is the same run (R15)."""
    code: list[CodeRef] = []
    context: Context
    registry_password: str = Field(default="", repr=False)
    """Stored sealed until no job of the run can need it any more, then wiped."""


class StopRequest(WireModel):
    abort: bool = False


class AttemptView(WireModel):
    """One submission of one job. ``host`` is the machine that it is booked on."""

    id: str
    num: int
    host: str = ""
    replica: int = 0
    job: int = 0
    state: AttemptState
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    log_size: int = 0
    """Bytes of log in the store."""
    submitted_at: float
    started_at: float | None = None
    finished_at: float | None = None


ConditionType = Literal["stuck", "unreachable", "unknown", "storage"]


class Condition(WireModel):
    type: ConditionType
    since: float
    message: str


class Forward(WireModel):
    """A port of a job and where it can be reached on the engine's machine."""

    port: int
    local_port: int
    url: str = ""


class Attachment(WireModel):
    """How a running job is reached. ``ssh_host`` is a name that ssh knows once ``ssh_config`` stands in ~/.ssh/config."""

    forwards: list[Forward] = []
    ssh_host: str = ""
    ssh_config: str = ""
    ide: str = ""
    link: str = ""
    notes: list[str] = []


class RunView(WireModel):
    id: str
    project: str
    name: str
    type: str = "task"
    state: RunState
    reason: str = ""
    message: str = ""
    """One sentence a person reads: what the run waits for, or why it ended."""
    conditions: list[Condition] = []
    user: str = ""
    submitted_at: float
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    backend: str = ""
    region: str = ""
    instance_type: str = ""
    price: float | None = None
    """Dollars per hour of the machines that it has, or had last; None where one's price is not known."""
    cost: float | None = 0.0
    """Dollars by now, every machine that was tried included; None where one's price is not known."""
    guard: Guard | None = None
    machines: list[InstanceView] = []
    """The rented ones that have not ended."""
    tried: list[str] = []
    """What the present attempts have tried in vain, in order: a sentence for each offer."""
    attempts: list[AttemptView] = []
    attachment: Attachment | None = None
    configuration: dict[str, Any] = {}
    seq: int = 0

    @property
    def ended(self) -> bool:
        return self.state in RUN_END

    @property
    def is_reachable(self) -> bool:
        """Whether a running job of it offers a port or a login."""
        return self.type == "dev-environment" or bool(self.configuration.get("ports"))
