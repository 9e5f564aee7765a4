"""The few protocols between the engine and a backend.

Vendor code blocks, so the engine calls all of this in a bounded thread pool, never on its loop; calls for different
instances come at once. Errors are ``models.errors``; a time-out of a create means unknown, never failed (D3).

A vendor of machines is a ``Backend`` and a ``Clouds``; the latter gives for each project that is configured a
``Cloud``: ``Instances`` and, where a machine needs resources beside it, ``Attachments``. Each cloud instance and resource has
an identity that is stored before the call that makes it (R1, R11); a sweep finds it in the vendor's complete list (R10).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from ..models.backends import PermissionView
from ..models.offers import OfferView

Columns = Mapping[str, Sequence[Any]]
"""Offers as columns of equal length under the names of ``OfferView``; ``backend``, ``instance_type``, ``cpus``, ``memory_gb``
and ``price`` are needed, another that is absent is empty. NaN is a number that the vendor does not tell: such memory passes
filters, such a price fails ``max_price``; ``reason`` then says what is not known."""


@dataclass(frozen=True, slots=True)
class Feed:
    """How the offers of a live source are kept between queries (``live.Live`` does it; a backend only states it)."""

    fresh: float = 300.0
    """Seconds for which an answer serves. An older answer still serves, with its age, while the source is asked again."""
    deadline: float = 30.0
    """Seconds after which a call that has not come back is shown as a source that does not answer. The call itself must end
    by time-outs of its own: its thread cannot be ended, and until it ends the source is not asked again."""
    patience: float = 0.0
    """Seconds that a query waits where there is no fresh answer. 0 for everything with a network in between."""
    kept: bool = True
    """Whether answers and errors are kept on disk for other processes of this user."""


class OfferSource(Protocol):
    """Where a backend's offers come from."""

    feed: Feed

    def account(self) -> str:
        """The account or project and the regions that the answer depends on; '' where there is one only. No secret: a hash of it
        names a file.

        Called on the thread of every query and plan, so it must not block on a network. Raises BackendNotAvailable where
        nothing is configured: that is the source's line beside the rows, and it is not asked.
        """

    def offers(self) -> Columns:
        """All its offers, whatever the query, from the vendor now. Keeps nothing itself.

        Called on a daemon thread of its own, one call at a time for each account among all processes of a user; may block,
        up to about ``feed.deadline``; changes nothing at the vendor. An error becomes the line beside the rows, without
        secrets; the last good answer stays.
        """


class Backend(OfferSource, Protocol):
    """One backend. Made once by the registry; on top of this it is ``Hosts`` or ``Clouds`` if runs can have its machines."""

    def check(self) -> list[PermissionView]:
        """Each right that the backend needs, and whether we have it. The first row is the login; its hint says who we are.

        Called when a user asks; may take seconds, changes nothing. A right that cannot be told is ``unknown``. Raises only
        where nothing can be asked: BackendNotAvailable (not configured), BackendUnreachable.
        """


@runtime_checkable
class Hosts(Protocol):
    """Machines that exist already, such as this one. Nothing is made or ended."""

    def create_instance(self, identity: str, offer: OfferView) -> dict[str, Any]:
        """Make the instance of a stored intent; with the same identity again it gives the same instance, never a second.

        Returns JSON that the later calls need. Called by the fleet reconciler. Raises NoCapacity, BackendError.
        """

    def terminate_instance(self, identity: str, data: dict[str, Any]) -> None:
        """End the instance; returns only when the vendor says that it is gone. One that is gone already is fine."""


InstanceStatus = Literal["starting", "running", "stopped", "ending", "unknown"]
"""What a vendor's own status means to us. Status sets are open: a word that nobody knows is ``unknown``, never an error."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What the engine has to know of a vendor before it calls. One constant a vendor."""

    resend: Literal["token", "name", "look"]
    """How a repeated create is kept from making a second machine: the vendor honours our token, or refuses a name that is taken,
    or does neither, so that only looking helps. With ``look`` an unknown create is sent again only when a machine of the identity
    was absent from complete lists for ``settles`` seconds."""
    settles: float = 120.0
    """Seconds after an unknown create in which a machine may still appear."""
    absent_after: float = 600.0
    """Age in seconds of a machine from which the vendor's 'not found' counts."""
    ready_within: float = 600.0
    """Seconds from the create within which the machine must answer by SSH; after that it counts as a machine that never will."""
    stopped_is_billed: bool = True
    """Whether a machine that powered itself off goes on costing: then the guard's plan says so beforehand (D7)."""
    user_data: int = 0
    """Bytes of user-data that the vendor takes; 0: none, the machine is prepared on first contact and its host key is pinned
    then (D6)."""


@dataclass(frozen=True, slots=True)
class ResourceRequest:
    """A cloud resource that a machine needs: a key object, a firewall, an address, a disk. Stored as a row before it is made.

    ``shared``: the installation has one, which outlives its machines; any other is removed after its machine.
    """

    kind: str
    identity: str
    shared: bool = False
    data: Mapping[str, Any] = field(default_factory=dict)
    """What ``attach`` needs to make it. JSON."""


@dataclass(frozen=True, slots=True)
class CloudResource:
    """A cloud resource as the vendor has it. ``id`` is the vendor's; ``detach`` needs only ``kind`` and ``id``.

    ``ours`` is False for a resource that was there before us and serves us too: it is never removed.
    """

    kind: str
    identity: str
    id: str
    ours: bool = True
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InstanceRequest:
    """What a machine is made from. Every retry sends the same request with the same identity."""

    identity: str
    """``engine.names.identity``: at most 63 of [a-z0-9-]. Vendors with a token derive it from this."""
    offer: OfferView
    user_data: str = ""
    login_key: str = ""
    """Our public key, ``<algorithm> <base64>``, for vendors that put keys on a machine through an object of the account."""
    resources: Sequence[CloudResource] = ()
    """The resources that ``needs`` named, made."""
    first: bool = False
    """Whether no create of this identity was ever sent, so that there is no machine to look for."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """``dj-…`` tags. A vendor whose tags need rights of their own leaves them out; the name alone then tells the owner."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One machine as the vendor tells it."""

    identity: str
    data: Mapping[str, Any]
    """JSON that ``get`` and ``terminate`` need; the engine stores it with the row."""
    status: InstanceStatus
    raw_status: str = ""
    """The vendor's own status, for people."""
    region: str = ""
    address: str = ""
    """Where SSH answers; '' while there is none."""
    internal_address: str = ""
    user: str = "root"
    port: int = 22
    created_at: float = 0.0
    """Unix time by the vendor's clock; 0 if it does not say. Of two machines of one identity the oldest is kept."""
    console: str = ""
    """A page of the vendor where a person sees this machine."""


class Instances(Protocol):
    """The machines of one account. Called by the instance reconciler, the sweeps and `cleanup`, in pool threads, for different
    identities at once; for one identity one call at a time.

    Any call may raise BadCredentials, PermissionMissing (both freeze the backend and change no instance's state), RateLimited
    (with its delay; nothing was done), BackendUnreachable (nothing was sent), BackendError (nothing can be concluded).
    """

    traits: Traits

    @property
    def account_id(self) -> str:
        """What tells this account and endpoint from others: a hash, no secret."""
        ...

    def needs(self, order: InstanceRequest) -> Sequence[ResourceRequest]:
        """What has to be attached before ``create``. Pure, no call: the engine stores a row for each, then attaches it."""

    def create(self, order: InstanceRequest) -> Instance:
        """Make the machine of a stored intent, sending the create once; a machine that has this identity already is returned.

        Raises an error whose ``nothing_made`` is true (NoCapacity, NoQuota, NoBalance, Refused, …) only if there is surely no
        machine of this call; anything else (time-out, 5xx, an answer that makes no sense) is UnknownOutcome: look with
        ``find``. An earlier call that was unknown stays unknown, whatever a later call says.
        """

    def find(self, identity: str) -> list[Instance]:
        """Every machine of this identity, asked from the vendor now. More than one: all but the oldest are to be ended.

        An empty list of a create that is under way proves nothing before ``traits.settles``.
        """

    def list_all(self, installation: str) -> list[Instance]:
        """Every machine of this installation, in every state and region, whoever asks and whatever the rows say.

        Complete or an error: never a part. Sweeps call this before they read the store; the engine also looks at many machines
        with it, so that one call a tick is enough.
        """

    def get(self, data: Mapping[str, Any]) -> Instance | None:
        """One machine; None if the vendor knows none, which proves nothing before ``traits.absent_after``."""

    def terminate(self, data: Mapping[str, Any]) -> bool:
        """Ask the vendor once to end the machine; returns when it accepted, not when it is gone: ``get`` tells that.

        The engine keeps one such call in flight for a machine and backs off between repeats, for some vendors punish a burst.
        False: the vendor knows no such machine, which is fine and proves nothing. Raises Busy where the vendor does not end the
        machine in its present state: ask later.
        """


@runtime_checkable
class Restarts(Protocol):
    """On top of ``Instances``, by a vendor whose machines keep their disk, name and address while they are off.

    The engine can then still read what a job left on a machine that powered itself off while no engine ran. A vendor whose
    stopped machines lose their disk has no such method.
    """

    def start(self, data: Mapping[str, Any]) -> None:
        """Ask the vendor to switch on a machine that is off; returns when it accepted, ``get`` tells when it is on.

        Called like ``Instances``, repeatedly while the machine is off: one that is on already is fine. Raises like
        ``Instances`` and Busy where the vendor does not start it in its present state: ask later.
        """


class Attachments(Protocol):
    """Cloud resources. Called like ``Instances``, with the same errors."""

    def attach(self, need: ResourceRequest) -> CloudResource:
        """Make the resource, or return the one that is there. Idempotent for an identity. Errors as ``Instances.create``."""

    def list_attached(self, installation: str) -> list[CloudResource]:
        """Every resource of this installation in the account. Complete or an error."""

    def detach(self, resource: CloudResource) -> None:
        """Remove the resource; gone already is fine. What is not ``ours`` stays. Raises Busy while a machine holds it."""


class Cloud(Instances, Attachments, Protocol):
    """One account of one vendor."""


@runtime_checkable
class Clouds(Protocol):
    """A backend whose machines are made and ended at a vendor."""

    def cloud(self, project: str = "main") -> Cloud:
        """The account that a project has configured; the same object while its entry stays. Calls nobody.

        Raises BackendNotAvailable where there is no entry: its rows stay as they are (R12).
        """

    def checked(self) -> tuple[list[PermissionView], float] | None:
        """What the last ``check`` of this account found, and its age in seconds; None if there was none. Asks nobody.

        Called for every list of backends.
        """
