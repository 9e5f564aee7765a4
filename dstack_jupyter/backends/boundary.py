"""The boundary that no vendor's exception crosses: it becomes an error of ours, without secrets and without the request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..models.errors import BackendError, DstackJupyterError
from ..models.secret import redact

LONGEST = 500
"""Characters of a vendor's own message that are shown."""


@contextmanager
def vendor_errors(name: str) -> Iterator[None]:
    """Around every call into a backend's code. Raises models.errors only; ours pass through.

    The vendor's exception is not chained: its frames, arguments and request may hold keys.
    """
    try:
        yield
    except DstackJupyterError:
        raise
    except Exception as error:
        said = redact(str(error)).strip().partition("\n")[0][:LONGEST]
        message = f"{name}: {type(error).__name__}" + (f": {said}" if said else "")
        raise BackendError(message, hint=f"`%dstack backends check {name}` looks closer") from None
