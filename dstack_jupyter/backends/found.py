"""The result of a query for offers: rows and the lines beside them, as a DataFrame, as JSON or as groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..models.offers import Missing
from ..offers.requirements import Requirements
from ..offers.rows import Rows

if TYPE_CHECKING:
    from ..offers.frame import DataFrame


@dataclass(frozen=True, slots=True)
class Found:
    """``rows`` are in order; ``missing`` are the backends without a row and why, those that had offers before filters first."""

    rows: Rows
    wanted: Requirements
    missing: list[Missing]
    notes: list[Missing]
    """Lines about backends that have rows: old answers, list prices."""
    empty: str
    """Why there is no row; '' if there is one."""
    pending: bool
    """Whether a source has been asked for the first time and has not answered yet."""

    def frame(self, most: int | None = None, group_by: str | None = None) -> DataFrame:
        """The first ``most`` offers or groups, with ``beside`` in its attrs. Raises ConfigurationError for wrong groups."""
        from ..offers.frame import plain_frame, to_frame

        frame = to_frame(self.rows.first(most)) if group_by is None else plain_frame(self.groups(group_by, most))
        frame.attrs |= self.beside()
        return frame

    def groups(self, group_by: str, most: int | None = None) -> dict[str, list[Any]]:
        """Plain columns, one row a group. Raises ConfigurationError."""
        from ..offers.groups import group, parse

        return {name: values[:most] for name, values in group(self.rows, parse(group_by)).items()}

    def beside(self) -> dict[str, Any]:
        """What stands beside the rows, as plain data."""
        from ..offers.wire import requirements

        return {
            "missing": [line.model_dump() for line in self.missing],
            "notes": [line.model_dump() for line in self.notes],
            "empty": self.empty,
            "query": requirements(self.wanted),
            "total_offers": len(self.rows),
        }

    def json(self, most: int | None = None, group_by: str | None = None) -> dict[str, Any]:
        """The documented keys, or groups; ``missing`` and ``notes`` beside them. What is not known is null."""
        from ..offers.wire import to_wire

        beside = {key: value for key, value in self.beside().items() if key in ("missing", "notes", "empty")}
        if group_by is None:
            return {**to_wire(self.rows.first(most), self.wanted, len(self.rows)), **beside}
        columns = self.groups(group_by, most)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        known = [{key: None if value != value else value for key, value in row.items()} for row in rows]  # noqa: PLR0124 - NaN
        return {"groups": known, **beside}
