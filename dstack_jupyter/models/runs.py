"""Runs as they cross the wire: what a client sends, what the engine answers, the frames of a stream.

Times are seconds since the epoch, UTC, as float; durations seconds; money US dollars, prices dollars per hour.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from .base import WireModel
from .states import INSTANCE_END, RUN_END, AttemptState, InstanceState, RunState


class Guard(WireModel):
    """Which guard ends what costs money when nobody looks (D7)."""

    kind: Literal["none", "engine", "host", "cloud"]
    text: str
    off_is_billed: bool = False
    """Whether a machine that its guard has powered off goes on costing at this vendor."""


class OfferView(WireModel):
    """One row of the offers table, with the column names of the DataFrame (design §4). A number that is not known is None."""

    backend: str
    region: str = ""
    zone: str = ""
    instance_type: str
    cpus: float | None
    memory_gb: float | None
    disk_gb: float | None
    gpu_vendor: str = ""
    gpu_name: str = ""
    gpu_count: int = 0
    gpu_memory_gb: float | None = 0.0
    cpu_arch: str = ""
    spot: bool = False
    price: float | None
    """Dollars per hour; None where the vendor does not tell. It never counts as free, and never passes ``max_price``."""
    availability: str = "available"
    reason: str = ""
    source: str = ""
    price_date: str = ""
    blocks: int = 1
    """Free blocks of a host that is shared by jobs."""
    total_blocks: int = 1


OWN_MACHINES = ("local", "ssh")
"""Backends whose machines are there already: none is rented, and the defaults of cpu, memory and disk do not filter them."""
UNAVAILABLE = frozenset({"not_available", "no_quota", "no_balance", "busy"})
"""Availabilities of offers that cannot be had now: they are shown last, with the reason."""

NOT_AVAILABLE_YET = "not available yet"
"""The reason of a backend that this version knows by name only."""


class Missing(WireModel):
    """A backend that has no row, and why."""

    backend: str
    reason: str
    hint: str = ""


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


OFF, OFF_BILLED = "off", "off, still billed"
"""What is wrong with a machine that is powered off, at vendors that then bill nothing, and at the others."""


class InstanceView(WireModel):
    """One rented machine, from its intent on. What is not known is None."""

    id: str
    identity: str
    """Its name at the vendor."""
    project: str = "main"
    fleet: str
    runs: list[str] = []
    """Names of the runs that it was made for or that are booked on it."""
    backend: str
    region: str = ""
    instance_type: str
    spot: bool = False
    state: InstanceState
    message: str = ""
    """What it does or lacks at the moment."""
    stuck: str = ""
    """What costs money for nothing, as far as is known; '' where all is as it should be."""
    stuck_since: float | None = None
    price: float | None = None
    """Dollars per hour."""
    cost: float | None = 0.0
    """Dollars since the vendor had it."""
    guard: Guard
    user: str = ""
    created_at: float
    rented_at: float | None = None
    """Since when the vendor has it: from then on it costs."""
    ending_at: float | None = None
    finished_at: float | None = None
    console: str = ""
    """A page of the vendor that shows it."""

    @property
    def billed(self) -> bool:
        """Whether it costs money now, as far as is known."""
        return self.state not in INSTANCE_END and self.rented_at is not None and self.stuck != OFF


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


class EventView(WireModel):
    """One line of the event log: who did what to which resource, when, and why."""

    seq: int
    at: float
    actor: str
    kind: str
    id: str
    name: str = ""
    project: str = "main"
    action: str
    message: str = ""


class LogFrame(WireModel):
    """Bytes [offset, offset + len) of an attempt's log; ``data`` is base64; ``at`` when the engine stored them."""

    type: Literal["log"] = "log"
    attempt: str
    offset: int
    at: float
    data: str


class GapFrame(WireModel):
    """Bytes [offset, end) of an attempt's log are gone, and ``reason`` says why."""

    type: Literal["gap"] = "gap"
    attempt: str
    offset: int
    end: int
    at: float
    reason: str


class RunFrame(WireModel):
    type: Literal["run"] = "run"
    run: RunView


class EndFrame(WireModel):
    """Always the last frame: the run has ended and every byte of its log was sent; or the stream was asked not to follow."""

    type: Literal["end"] = "end"
    run: RunView


class PingFrame(WireModel):
    """Sent when nothing else was for 15 s, so that a dead link is noticed."""

    type: Literal["ping"] = "ping"


Frame = Annotated[LogFrame | GapFrame | RunFrame | EndFrame | PingFrame, Field(discriminator="type")]


class BackendView(WireModel):
    """A backend as this user has it. ``price_age_days`` is None where there are no prices."""

    backend: str
    kind: Literal["vm", "container", "on-prem", "local", "marketplace"]
    configured: bool = False
    identity: str = ""
    """Who we are there, as far as the configuration itself tells; never a secret."""
    credentials: Literal["valid", "invalid", "unknown", "none needed"] = "unknown"
    permissions: str = "unknown"
    regions: list[str] = []
    last_error: str = ""
    price_source: str = ""
    price_age_days: float | None = None
    status: Literal["ready", "not configured", "in trouble", "not supported yet", "not available"] = "not supported yet"
    message: str = ""
    hint: str = ""


class PermissionView(WireModel):
    """One right at a backend. ``level``: without it nothing works, a feature fails, or something falls back visibly."""

    backend: str
    permission: str
    level: Literal["required", "feature", "improves"] = "required"
    purpose: str = ""
    status: Literal["granted", "missing", "not needed", "unknown"]
    hint: str = ""
    """What to add, or why it cannot be told."""
    on_the_page: bool = True


class EngineInfo(WireModel):
    api_version: int
    version: str
    pid: int
    host: Literal["server", "process"]
    """Who hosts the engine: a Jupyter server, or a process of its own."""
    home: str
    installation: str
    python: str = ""
    """The interpreter that the engine runs on."""
    started_at: float
    store_open: bool = False
    unfinished_runs: int = 0
    problems: list[str] = []
