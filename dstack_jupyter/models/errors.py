"""The one error tree. Every error a user can see is one of these.

::

    DstackJupyterError                 code                  http
    ├── ConfigurationError             configuration_error    400   a YAML or an argument that cannot be understood
    ├── NotSupportedYet                not_supported_yet      501   understood, not built
    ├── Forbidden                      forbidden              403   another user's engine, or an action that is not allowed
    ├── NotFound                       not_found              404
    ├── Conflict                       conflict               409   an active run has that name, …
    ├── ConfirmationNeeded             confirmation_needed    412   money would be spent and nobody can be asked
    ├── LimitExceeded                  limit_exceeded         413   a file, a YAML or an upload is too large
    ├── RunFailed                      run_failed             422   the run ended, and not with success
    ├── BackendError                   backend_error          502
    │   ├── BackendNotAvailable        backend_not_available  501
    │   ├── UnknownOutcome             unknown_outcome        502   it may have been done: look before anything else
    │   ├── Busy                       busy                   503   not in the thing's present state: ask later
    │   ├── BackendUnreachable         backend_unreachable    503   the vendor was not reached: nothing was sent ○
    │   ├── RateLimited                rate_limited           503   ``delay`` seconds until it is worth asking again ○
    │   ├── BadCredentials             bad_credentials        502   the vendor does not know the key ○
    │   ├── PermissionMissing          permission_missing     502   it knows it, and it lacks ``permission`` ○
    │   ├── NoCapacity                 no_capacity            503   sold out there ○
    │   ├── NoQuota                    no_quota               503   a limit of the account ○
    │   ├── NoBalance                  no_balance             502   money, or an account that is locked ○
    │   ├── NotAtVendor                not_at_vendor          502   what the request names is not there ○
    │   ├── Refused                    refused                502   a plain no for another reason ○
    │   └── Unreachable                unreachable            503   a machine does not answer; its jobs may well go on
    │       └── HostKeyChanged         host_key_changed       502   somebody else may answer there: nothing was sent
    ├── StorageFull                    storage_full           507   the disk under our state is full
    ├── StoreUnavailable           store_unavailable     503   the database is away or busy; trying again helps
    ├── LostLease                  lost_lease            503   another engine acts for this resource now; nothing was changed
    ├── EngineUnavailable              engine_unavailable     503   no engine answers and none could be started
    └── EngineError                    engine_error           500   a defect of ours, with a request id to report

○ ``nothing_made``: as the answer to a create it is surely a no. Every other error of a create leaves open whether there is
something now.

``message`` says what is wrong, ``hint`` how to mend it, ``code`` is stable for programs, ``status`` is what the error is
over HTTP. Nothing here ever holds the value of a secret.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar


class DstackJupyterError(Exception):
    """Base of every error that this package raises on purpose.

    IPython prints ``_render_traceback_`` instead of a traceback: the cell fails, and its reader sees two lines.
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.request_id = request_id

    @property
    def text(self) -> str:
        """What is wrong and how to mend it on one line, for messages that are stored or shown in a table."""
        return f"{self.message}; {self.hint}" if self.hint else self.message

    def details(self) -> dict[str, Any]:
        """What a subclass carries beyond the envelope, as JSON. Called by whoever sends the error over a wire."""
        return {}

    def envelope(self) -> dict[str, Any]:
        """The REST form: ``{code, message, hint, request_id, details}``."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "request_id": self.request_id,
            "details": self.details(),
        }

    def _lines(self) -> list[str]:
        lines = [f"{type(self).__name__}: {self.message}"]
        if self.hint:
            lines.append(f"hint: {self.hint}")
        if self.request_id and self.status == 500:
            lines.append(f"request id: {self.request_id}")
        return lines

    def __str__(self) -> str:
        return self.message if not self.hint else f"{self.message}\nhint: {self.hint}"

    def _render_traceback_(self) -> list[str]:
        return self._lines()


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a configuration. ``line`` and ``column`` count from 1; 0 means not known."""

    message: str
    hint: str = ""
    key: str = ""
    file: str = ""
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        place = self.file or "<cell>"
        if self.line:
            place += f":{self.line}:{self.column}"
        subject = f"{self.key}: " if self.key else ""
        return f"{place}: {subject}{self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfigurationError(DstackJupyterError):
    """A YAML, a file or an argument that cannot be understood; ``problems`` holds every fault found in one pass."""

    code = "configuration_error"
    status = 400

    def __init__(self, message: str, *, hint: str = "", request_id: str = "", problems: list[Problem] | None = None) -> None:
        super().__init__(message, hint=hint, request_id=request_id)
        self.problems = problems or []

    def details(self) -> dict[str, Any]:
        return {"problems": [asdict(problem) for problem in self.problems]}

    def _lines(self) -> list[str]:
        head, *rest = super()._lines()
        return [head, *(f"  {problem}" for problem in self.problems), *rest]

    def __str__(self) -> str:
        return "\n".join(
            [self.message, *(f"  {problem}" for problem in self.problems)] + ([f"hint: {self.hint}"] if self.hint else [])
        )


class NotSupportedYet(DstackJupyterError):
    code = "not_supported_yet"
    status = 501


class Forbidden(DstackJupyterError):
    code = "forbidden"
    status = 403


class NotFound(DstackJupyterError):
    code = "not_found"
    status = 404


class Conflict(DstackJupyterError):
    code = "conflict"
    status = 409


class ConfirmationNeeded(DstackJupyterError):
    code = "confirmation_needed"
    status = 412


class LimitExceeded(DstackJupyterError):
    code = "limit_exceeded"
    status = 413


class RunFailed(DstackJupyterError):
    """A run ended, and not with success. ``last_lines`` is text of the job: untrusted, escape it before showing it."""

    code = "run_failed"
    status = 422

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        request_id: str = "",
        run: str = "",
        exit_code: int | None = None,
        last_lines: list[str] | None = None,
    ) -> None:
        super().__init__(message, hint=hint, request_id=request_id)
        self.run = run
        self.exit_code = exit_code
        self.last_lines = last_lines or []

    def details(self) -> dict[str, Any]:
        return {"run": self.run, "exit_code": self.exit_code, "last_lines": self.last_lines}


class BackendError(DstackJupyterError):
    """A vendor, or our way to it, did not do what was asked."""

    code = "backend_error"
    status = 502
    nothing_made: ClassVar[bool] = False
    """Whether this answer to a create proves that nothing was made."""


class BackendNotAvailable(BackendError):
    """Not built, not installed, or not configured: nobody was asked."""

    code = "backend_not_available"
    status = 501
    nothing_made = True


class UnknownOutcome(BackendError):
    """A call that makes something may or may not have made it: only looking tells."""

    code = "unknown_outcome"


class Busy(BackendError):
    code = "busy"
    status = 503


class BackendUnreachable(BackendError):
    code = "backend_unreachable"
    status = 503
    nothing_made = True


class RateLimited(BackendError):
    """``delay``: seconds until the vendor may be asked again, as it said itself or as we count."""

    code = "rate_limited"
    status = 503
    nothing_made = True

    def __init__(self, message: str, *, hint: str = "", request_id: str = "", delay: float = 0.0) -> None:
        super().__init__(message, hint=hint, request_id=request_id)
        self.delay = delay

    def details(self) -> dict[str, Any]:
        return {"delay": self.delay}


class BadCredentials(BackendError):
    code = "bad_credentials"
    nothing_made = True


class PermissionMissing(BackendError):
    """``permission``: what the key lacks, as the vendor or its documentation names it."""

    code = "permission_missing"
    nothing_made = True

    def __init__(self, message: str, *, hint: str = "", request_id: str = "", permission: str = "") -> None:
        super().__init__(message, hint=hint, request_id=request_id)
        self.permission = permission

    def details(self) -> dict[str, Any]:
        return {"permission": self.permission}


class NoCapacity(BackendError):
    code = "no_capacity"
    status = 503
    nothing_made = True


class NoQuota(BackendError):
    code = "no_quota"
    status = 503
    nothing_made = True


class NoBalance(BackendError):
    code = "no_balance"
    nothing_made = True


class NotAtVendor(BackendError):
    code = "not_at_vendor"
    nothing_made = True


class Refused(BackendError):
    code = "refused"
    nothing_made = True


class Unreachable(BackendError):
    code = "unreachable"
    status = 503


class HostKeyChanged(Unreachable):
    code = "host_key_changed"
    status = 502


class StorageFull(DstackJupyterError):
    code = "storage_full"
    status = 507


class StoreUnavailable(DstackJupyterError):
    code = "store_unavailable"
    status = 503


class LostLease(DstackJupyterError):
    code = "lost_lease"
    status = 503


class EngineUnavailable(DstackJupyterError):
    code = "engine_unavailable"
    status = 503


class EngineError(DstackJupyterError):
    code = "engine_error"
    status = 500


def _walk(cls: type[DstackJupyterError]) -> dict[str, type[DstackJupyterError]]:
    by_code = {cls.code: cls}
    for child in cls.__subclasses__():
        by_code.update(_walk(child))
    return by_code


def from_envelope(envelope: dict[str, Any]) -> DstackJupyterError:
    """The error that an envelope stands for: what crossed a wire is raised again as the same type."""
    cls = _walk(DstackJupyterError).get(str(envelope.get("code", "")), EngineError)
    common: dict[str, Any] = {key: str(envelope.get(key) or "") for key in ("hint", "request_id")}
    message = str(envelope.get("message") or "the engine answered with an error that has no message")
    details = envelope.get("details") or {}
    if cls is ConfigurationError:
        return ConfigurationError(message, **common, problems=[Problem(**p) for p in details.get("problems", [])])
    return cls(message, **common, **details)
