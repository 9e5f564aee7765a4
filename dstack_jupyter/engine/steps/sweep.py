"""What a sweep concludes from a vendor's complete list and the rows that were read after it: pure functions (D4, R10).

A machine of our names that no row needs is an orphan. None is acted on before it is old, by the vendor's clock and by ours: an
engine elsewhere may be making it this moment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...backends.base import CloudResource, Instance, Traits

Verdict = Literal["ended", "double", "unknown"]
"""``ended``: its row has ended, so it came back or was made late. ``double``: a second machine of an identity. ``unknown``: this
store never knew it, a copy of the store may: only its user decides."""

MARGIN = 60.0
"""Seconds that are added to what a vendor needs until a machine shows: clocks differ."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The row of an identity. ``vendor``: the data of the machine that it knows, None while it knows none."""

    id: str
    ended: bool
    vendor: Mapping[str, Any] | None
    price: float | None = None


@dataclass(frozen=True, slots=True)
class Orphan:
    """``due``: old enough, and seen in an earlier sweep too. ``wait``: seconds until it may be, by its age."""

    machine: Instance
    key: str
    verdict: Verdict
    owner: Owner | None
    due: bool
    wait: float

    @property
    def ours_to_end(self) -> bool:
        """Whether the sweep itself ends it, now."""
        return self.due and self.verdict != "unknown" and self.machine.status != "ending"


@dataclass(frozen=True, slots=True)
class Machines:
    """``wake``: rows that wait for a word about what is in the list."""

    kept: list[tuple[Instance, Owner]]
    orphans: list[Orphan]
    wake: list[str]


def gate(traits: Traits) -> float:
    """Seconds for which nobody touches an orphan."""
    return traits.settles + MARGIN


def key_of(data: Mapping[str, Any] | str) -> str:
    """What tells one machine (by its data) or thing (by its id) of an account from others, short enough for a key."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:32]


def young_for(first_seen: float | None, created_at: float, now: float, gate: float) -> float:
    """Seconds until it is old by both clocks; ``first_seen`` None: seen for the first time now."""
    seen = now if first_seen is None else first_seen
    return max(0.0, seen + gate - now, created_at + gate - now if created_at else 0.0)


def machines(
    listed: Sequence[Instance], owners: Mapping[str, Owner], seen: Mapping[str, float], now: float, gate: float
) -> Machines:
    """``owners`` by identity; ``seen``: since when each orphan that is known already is seen, by its key."""
    sorted_out = Machines([], [], [])
    by_identity: dict[str, list[Instance]] = {}
    for each in listed:
        by_identity.setdefault(each.identity, []).append(each)

    def orphan(machine: Instance, verdict: Verdict, owner: Owner | None) -> None:
        key = key_of(machine.data)
        wait = young_for(seen.get(key), machine.created_at, now, gate)
        sorted_out.orphans.append(Orphan(machine, key, verdict, owner, key in seen and not wait, wait))

    for identity, same in by_identity.items():
        owner = owners.get(identity)
        if owner is None:
            for each in same:
                orphan(each, "unknown", None)
        elif owner.ended:
            for each in same:
                orphan(each, "ended", owner)
        else:
            kept = _kept(same, owner)
            sorted_out.kept.append((kept, owner))
            if owner.vendor is None:
                sorted_out.wake.append(owner.id)
            for each in same:
                if each is not kept:
                    orphan(each, "double", owner)
    return sorted_out


def _kept(same: Sequence[Instance], owner: Owner) -> Instance:
    """Of machines of one identity: the one that its row knows, else the oldest. A single one always is."""
    known = [each for each in same if owner.vendor is not None and dict(each.data) == dict(owner.vendor)]
    return known[0] if known else min(same, key=lambda each: each.created_at)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of ``cloud_resources``. ``ended``: the instance that it goes with has ended; shared ones go with none."""

    account: str
    kind: str
    identity: str
    id: str
    shared: bool
    ended: bool
    age: float
    ours: bool = True
    data: Mapping[str, Any] | None = None
    instance_id: str | None = None


@dataclass(frozen=True, slots=True)
class Things:
    """``kept``: in the list, with its row. ``orphans``: without one. ``detach``: rows of instances that have ended, with what is
    there of them (None: nothing, the row is all that is left)."""

    kept: list[tuple[CloudResource, Row]]
    orphans: list[CloudResource]
    detach: list[tuple[Row, CloudResource | None]]


def resources(listed: Sequence[CloudResource], rows: Sequence[Row], gate: float) -> Things:
    sorted_out = Things([], [], [])
    there: dict[tuple[str, str, str], CloudResource] = {}
    for each in listed:
        same = [row for row in rows if row.kind == each.kind and (row.identity == each.identity or row.id == each.id)]
        # One that a living row needs is kept, whatever other rows say.
        same.sort(key=lambda row: row.ended)
        if not same:
            sorted_out.orphans.append(each)
        elif not same[0].ended:
            sorted_out.kept.append((each, same[0]))
        there.update({(row.account, row.kind, row.identity): each for row in same})
    for row in rows:
        if not row.ended:
            continue
        seen = there.get((row.account, row.kind, row.identity))
        if row.id:
            sorted_out.detach.append((row, CloudResource(row.kind, row.identity, row.id, row.ours, row.data or {})))
        elif seen is not None or row.age >= gate:
            sorted_out.detach.append((row, seen))
    return sorted_out
