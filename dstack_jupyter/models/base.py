"""What every model of ours has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Unknown keys are errors, values are checked again on assignment, and no error ever shows an input's value."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, hide_input_in_errors=True)


class WireModel(BaseModel):
    """A message between our own programs: a newer peer may send keys that an older one does not know."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)
