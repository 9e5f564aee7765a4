"""The rows that leave the store, typed. Each class has the columns of its table, in their order; ``reader`` makes one of a row.

What is JSON in the database is a type of its own here, so that nobody above the store guesses a key or its default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, TypedDict, TypeVar

from sqlalchemy import Row, Table

from ...models.instances import Guard
from ...models.offers import OfferView
from ...models.states import AttemptState, Desired, FleetState, InstanceState, RunState, WaitsFor
from ...models.stored import StoredRun
from .schema import attempts, cloud_instances, cloud_resources, fleets, instances, runs
from .schema_accounts import accounts, orphans

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunRow:
    id: str
    project: str
    name: str
    type: str
    request_key: str
    user: str
    state: RunState
    desired: Desired
    reason: str
    message: str
    configuration: StoredRun
    registry_password: str | None
    code: list[dict[str, str]]
    context: dict[str, str]
    fleet_id: str
    submitted_at: float
    next_at: float | None
    waits_for: WaitsFor
    started_at: float | None
    finished_at: float | None
    exit_code: int | None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    id: str
    run_id: str
    job_id: str
    replica: int
    job: int
    num: int
    state: AttemptState
    reason: str
    message: str
    exit_code: int | None
    instance_id: str | None
    """The instance that the attempt is booked on, or was."""
    log_offset: int
    submitted_at: float
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class Tried:
    """What the fleet reconciler needs of an attempt."""

    id: str
    state: AttemptState
    instance_id: str | None
    job: int


@dataclass(frozen=True, slots=True)
class FleetRow:
    id: str
    project: str
    name: str
    run_id: str | None
    """The run that made the fleet for itself; None for what a user applied."""
    kind: str
    """``run``, ``ssh`` or ``cloud``."""
    message: str
    configuration: dict[str, Any] | None
    user: str
    state: FleetState
    created_at: float
    finished_at: float | None
    place: str


class AddressData(TypedDict):
    """``machines.ssh.connection.Address`` as JSON."""

    hostname: str
    port: int
    user: str
    identity_file: str
    proxy: AddressData | None


@dataclass(frozen=True, slots=True)
class InstanceData:
    """An instance's data beside its columns. ``raw`` is all data, with the backend's additions."""

    raw: Mapping[str, Any]
    gpus: list[int] = field(default_factory=list)
    """Of this machine: the numbers of the GPUs that the instance has."""
    place: str = ""
    """Where an instance of a shared store's `local` is; '' for any other."""
    silence: int | None = None
    """Seconds without a heartbeat after which the machine's own guard powers it off; 0: never; None: nothing was stored."""
    age: int = 0
    """Seconds after which the guard powers it off in any case; 0: never."""
    address: AddressData | None = None
    endpoint: str = ""
    """``address:port``, under which its host key is pinned."""
    blocks: int = 1
    """Equal parts that jobs book."""
    blocks_wanted: int | str = 1
    """As the fleet's configuration says: a number, or ``auto``."""
    internal_ip: str = ""
    """As the fleet's configuration says."""
    internal_ip_found: str = ""
    """The address at which other nodes of a run reach the instance."""
    network: str = ""
    docker: bool = False
    notes: list[str] = field(default_factory=list)
    clock_ahead: float = 0.0
    """Seconds that its clock is ahead of ours."""
    host_key: str = ""
    next_key: str = ""
    """The host key that the machine will show next: stored before the machine gets it."""
    verdict: str = ""
    """``offer`` or ``account``: what the vendor's refusal was about."""
    spared: bool = False
    """The instance ended for no fault of its offer."""

    @classmethod
    def of(cls, raw: dict[str, Any]) -> InstanceData:
        return cls(raw, **{name: raw[name] for name in KEYS.intersection(raw)})


KEYS = frozenset(each.name for each in fields(InstanceData)) - {"raw"}


@dataclass(frozen=True)
class InstanceRow:
    """``offer``, ``data`` and ``guard`` are made at their first use: most readers need one of them or none."""

    id: str
    identity: str
    """The name at the vendor, the same on every retry."""
    project: str
    fleet_id: str
    attempt_id: str | None
    """The attempt that the instance is made for; None for what runs share."""
    backend: str
    region: str
    instance_type: str
    price: float | None
    offer_json: dict[str, Any]
    data_json: dict[str, Any]
    guard_json: dict[str, Any]
    state: InstanceState
    message: str
    created_at: float
    started_at: float | None
    finished_at: float | None

    @cached_property
    def offer(self) -> OfferView:
        """What the instance was made of; ``NO_OFFER`` for a host that nobody has reached yet."""
        return OfferView(**self.offer_json) if self.offer_json else NO_OFFER

    @cached_property
    def data(self) -> InstanceData:
        return InstanceData.of(self.data_json)

    @cached_property
    def guard(self) -> Guard:
        return Guard(**self.guard_json)


@dataclass(frozen=True, slots=True)
class Observed:
    """The vendor's last answer about a machine: the fields of ``backends.base.Instance`` that are kept. Empty at first."""

    status: str = ""
    raw_status: str = ""
    address: str = ""
    internal_address: str = ""
    user: str = ""
    port: int = 0
    region: str = ""
    console: str = ""

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Observed:
        return cls(**raw)


OBSERVED = tuple(each.name for each in fields(Observed))


@dataclass(frozen=True, slots=True)
class CloudRow:
    """A cloud instance at its vendor."""

    instance_id: str
    account: str
    create_sent_at: float | None
    rented_at: float | None
    observed_at: float | None
    absent_since: float | None
    ending_at: float | None
    delete_accepted_at: float | None
    idle_at: float | None
    vendor: dict[str, Any] | None
    observed: Observed


@dataclass(frozen=True, slots=True)
class CloudResourceRow:
    account: str
    kind: str
    identity: str
    backend: str
    project: str
    instance_id: str | None
    resource_id: str
    ours: int
    data: dict[str, Any]
    created_at: float


@dataclass(frozen=True, slots=True)
class AccountRow:
    account_id: str
    backend: str
    project: str
    first_used_at: float
    swept_at: float | None
    claimed_until: float | None
    problem: str


@dataclass(frozen=True, slots=True)
class OrphanRow:
    account: str
    kind: str
    resource_id: str
    identity: str
    verdict: str
    raw_status: str
    region: str
    price: float | None
    first_seen_at: float
    seen_at: float
    delete_accepted_at: float | None


def reader(cls: Callable[..., T], table: Table, **convert: Callable[[Any], Any]) -> Callable[[Row[Any] | Sequence[Any]], T]:
    """What makes a ``cls`` of a row that begins with the columns of ``table``. ``convert``: by column."""
    names = list(table.columns.keys())
    places = [(names.index(name), function) for name, function in convert.items()]
    count = len(names)

    def read(row: Row[Any] | Sequence[Any]) -> T:
        values = list(row[:count])
        for place, function in places:
            values[place] = function(values[place])
        return cls(*values)

    return read


NO_OFFER = OfferView(backend="", instance_type="", cpus=None, memory_gb=None, disk_gb=None, gpu_memory_gb=None, price=None)
"""The offer of a host that nobody has reached yet."""

run_row = reader(RunRow, runs, state=RunState, desired=Desired, configuration=StoredRun, waits_for=WaitsFor)
attempt_row = reader(AttemptRow, attempts, state=AttemptState)
fleet_row = reader(FleetRow, fleets, state=FleetState)
instance_row = reader(InstanceRow, instances, state=InstanceState)
cloud_row = reader(CloudRow, cloud_instances, observed=Observed.of)
cloud_resource_row = reader(CloudResourceRow, cloud_resources)
account_row = reader(AccountRow, accounts)
orphan_row = reader(OrphanRow, orphans)

READERS: dict[str, Callable[[Row[Any] | Sequence[Any]], Any]] = {
    "runs": run_row,
    "attempts": attempt_row,
    "fleets": fleet_row,
    "instances": instance_row,
    "cloud_instances": cloud_row,
}
"""By the name of the table, for ``joined``."""
