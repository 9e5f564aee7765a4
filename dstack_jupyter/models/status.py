"""What is rented and what does not get on, at one look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .backends import BackendView
from .engine import EngineInfo
from .instances import InstanceView
from .runs import RunView


def urgent(machines: Sequence[InstanceView]) -> list[InstanceView]:
    """Stuck ones first, those that are longest so before the others; then by age."""
    return sorted(machines, key=lambda each: (not each.stuck, each.stuck_since or each.created_at, each.created_at))


def rate(machines: Sequence[InstanceView]) -> tuple[float, int]:
    """(dollars per hour of those that are billed now and whose price is known, how many more are billed at an unknown one)."""
    billed = [each.price for each in machines if each.billed]
    known = [each for each in billed if each is not None]
    return sum(known), len(billed) - len(known)


@dataclass(frozen=True, slots=True)
class Status:
    """What is so at ``now`` (Unix time): backends in trouble, rented machines, active runs."""

    now: float
    engine: EngineInfo
    backends: Sequence[BackendView]
    machines: Sequence[InstanceView]
    runs: Sequence[RunView]

    def states(self) -> dict[str, int]:
        """How many machines are in which state."""
        return dict(Counter(str(each.state) for each in self.machines))

    def data(self) -> dict[str, Any]:
        """As plain data. ``price`` is $/h of all that is billed, None where a price is not known."""
        dollars, unknown = rate(self.machines)
        return {
            "engine": self.engine.model_dump(mode="json"),
            "backends": [each.model_dump(mode="json") for each in self.backends],
            "price": None if unknown else dollars,
            "known_price": dollars,
            "unknown_prices": unknown,
            "states": self.states(),
            "machines": [each.model_dump(mode="json") for each in urgent(self.machines)],
            "runs": dict(Counter(str(run.state) for run in self.runs)),
            "conditions": [{"run": run.name, **each.model_dump()} for run in self.runs for each in run.conditions],
        }
