"""Offers of live sources between queries: asked in the background, kept on disk with their age, never in a query's way.

A query takes the last answer as it is. Where that is not fresh, a daemon thread asks the source; one call at a time for each
account among all processes of a user (a file lock), so a dead vendor costs one sleeping thread. A process that ends soon hands
its open questions to a process of their own: ``hand_over``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

from ..models.durations import format_duration
from ..models.errors import BackendError, ConfigurationError, DstackJupyterError
from ..models.home import Home, private_folder, write_private
from ..models.offers import COLUMNS, NEEDED, OWN_MACHINES, Missing
from ..offers.table import OfferTable
from ..processes import spawn_detached
from . import registry
from .base import Columns, OfferSource
from .boundary import vendor_errors
from .config.configured import entry_of

log = logging.getLogger(__name__)

FORMAT = 1
RETRY = 30.0
"""Seconds between a failed call and the next, at most: a wrong key must not be tried by every query."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known of a source's offers at a moment. ``table`` is None until the first good answer."""

    table: OfferTable | None = None
    asked_at: float = 0.0
    """Unix time of the good answer."""
    error: str = ""
    hint: str = ""
    failed_at: float = 0.0
    """Unix time of the last failure; 0 if the last call was good."""
    asking_for: float | None = None
    """Seconds that the present call has been under way; None if there is none."""
    overdue: bool = False
    """Whether that is more than the source may take."""

    @property
    def pending(self) -> bool:
        """Whether nothing is known yet and a call that is not overdue is under way."""
        return self.table is None and not self.error and self.asking_for is not None and not self.overdue

    @property
    def age(self) -> float:
        """Seconds since the good answer."""
        return time.time() - self.asked_at


class Live:
    """The offers of one account of one source. Safe on any thread. Made by ``of``."""

    def __init__(self, name: str, source: OfferSource, file: Path | None) -> None:
        self.name = name
        self.source = source
        self._file = file
        self._changed = threading.Condition()
        self._answer = Answer()
        self._seen: tuple[int, int] | None = None
        self._asking_since: float | None = None

    def begin(self) -> None:
        """Ask in the background if the answer is not fresh and nobody is asking. Never blocks on the source."""
        with self._changed:
            self._read()
            if self._asking_since is None and not self._fresh():
                self._asking_since = time.monotonic()
                threading.Thread(target=self._ask, name=f"dj-offers-{self.name}", daemon=True).start()

    def answer(self, until: float = 0.0) -> Answer:
        """The last answer. If it is not fresh, waits for a call under way, until ``until`` (time.monotonic) or its deadline."""
        with self._changed:
            while (since := self._asking_since) is not None and not self._fresh():
                left = min(until, since + self.source.feed.deadline) - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            if since is None:
                return self._answer
            asking = time.monotonic() - since
            return replace(self._answer, asking_for=asking, overdue=asking > self.source.feed.deadline)

    def _fresh(self) -> bool:
        """Whether there is no need to ask. A clock that was set back makes an answer old."""
        known, now, feed = self._answer, time.time(), self.source.feed
        if known.failed_at:
            return 0 <= now - known.failed_at < min(RETRY, feed.fresh)
        return 0 <= now - known.asked_at < feed.fresh

    def _ask(self) -> None:
        try:
            with self._only_one():
                with self._changed:
                    self._read()
                    if self._fresh():  # another process was quicker
                        return
                self._keep(self._asked())
        finally:
            with self._changed:
                self._asking_since = None
                self._changed.notify_all()

    def _asked(self) -> Answer:
        now = time.time
        try:
            with vendor_errors(self.name):
                return Answer(checked(self.name, self.source.offers(), now()), now())
        except DstackJupyterError as error:
            with self._changed:
                return replace(self._answer, error=error.message, hint=error.hint, failed_at=now())

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        """Hold the file lock; waits on this thread. The operating system frees the lock of a process that dies."""
        descriptor = None
        if self._file is not None:
            with suppress(OSError):  # a full disk or a folder that is gone costs the lock, not the answer
                descriptor = os.open(self._file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if descriptor is None:
            yield
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _keep(self, answer: Answer) -> None:
        with self._changed:
            self._answer = answer
            if self._file is None:
                return
            kept = {
                "format": FORMAT,
                "asked_at": answer.asked_at,
                "failed_at": answer.failed_at,
                "error": answer.error,
                "hint": answer.hint,
                "columns": None if answer.table is None else answer.table.rows.lists(),
            }
            try:
                write_private(self._file, json.dumps(kept).encode())
                self._seen = self._state()
            except (OSError, TypeError) as error:
                log.warning("offers of %s are not kept on disk: %s", self.name, error)

    def _state(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._file) if self._file is not None else None
        except OSError:
            return None
        return None if status is None else (status.st_mtime_ns, status.st_ino)

    def _read(self) -> None:
        """Take what another process has kept since. A file that makes no sense is no answer: it is written anew."""
        state = self._state()
        if self._file is None or state is None or state == self._seen:
            return
        self._seen = state
        try:
            kept = json.loads(self._file.read_bytes())
            if kept["format"] != FORMAT:
                return
            columns = kept["columns"]
            answer = Answer(
                None if columns is None else checked(self.name, columns, kept["asked_at"]),
                float(kept["asked_at"]),
                str(kept["error"]),
                str(kept["hint"]),
                float(kept["failed_at"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, BackendError) as error:
            log.warning("kept offers of %s make no sense and are asked for anew: %s", self.name, type(error).__name__)
            return
        if max(answer.asked_at, answer.failed_at) >= max(self._answer.asked_at, self._answer.failed_at):
            self._answer = answer


def checked(name: str, columns: Columns, asked_at: float) -> OfferTable:
    """The columns as a table, with the day of ``asked_at`` (Unix time, 0 for none) as their date if they have none.

    A price of 0 for a machine that is not the user's own is one that is not known: what looks free is launched unasked.
    Raises BackendError for what is not a table of this backend's offers.
    """
    checked_columns: dict[str, Sequence[Any]] = dict(columns)
    unknown, absent = checked_columns.keys() - COLUMNS.keys(), [column for column in NEEDED if column not in checked_columns]
    if unknown or absent:
        raise BackendError(f"{name}: its offers have wrong columns: {', '.join(sorted(unknown) or absent)}")
    if set(checked_columns["backend"]) - {name}:
        raise BackendError(f"{name}: it gives offers of another backend")
    if asked_at:
        checked_columns.setdefault(
            "price_date", [time.strftime("%Y-%m-%d", time.gmtime(asked_at))] * len(checked_columns["backend"])
        )
    try:
        if name not in OWN_MACHINES:
            checked_columns["price"] = [price if price is not None and price > 0 else nan for price in checked_columns["price"]]
        return OfferTable.of(checked_columns)
    except (ValueError, TypeError, OverflowError) as error:
        raise BackendError(f"{name}: its offers are no table: {error}") from None


_lives: dict[tuple[Path, str, str], Live] = {}
_making = threading.Lock()


def of(name: str) -> Live:
    """The kept offers of a backend as it is configured now. Blocks on no network.

    Raises NotFound, BackendNotAvailable (not built, its extra absent, not configured), other errors of its ``account``.
    """
    proper, entry = registry.entry(name)
    if entry.by_file:
        entry_of(proper)
    source = registry.load(proper)
    with vendor_errors(proper):
        account = source.account()
    home = Home.default()
    with _making:
        live = _lives.get((home.root, proper, account))
        if live is None or live.source is not source:
            file = None
            if source.feed.kept:
                mark = hashlib.sha256(account.encode()).hexdigest()[:16]
                with suppress(OSError, ConfigurationError):  # then they are kept in memory only
                    file = private_folder(home.cache / "offers") / f"{proper}-{mark}.json"
            live = _lives[home.root, proper, account] = Live(proper, source, file)
        return live


def line_of(live: Live, answer: Answer) -> Missing | None:
    """What the user should know of a source beside its rows, or in their place; None if all is well."""
    feed, reason, hint = live.source.feed, answer.error, answer.hint
    if answer.overdue:
        reason, hint = (
            f"it does not answer: asked {answer.asking_for:.0f} s ago",
            f"`%dstack backends check {live.name}` tells more",
        )
    if answer.table is None:
        if not reason:
            reason, hint = "its offers are being asked for", "ask again in a moment, or with `--refresh` to wait for them"
        return Missing(backend=live.name, reason=reason, hint=hint)
    old = f"its offers are {format_duration(answer.age, rough=True)} old"
    if reason:
        return Missing(backend=live.name, reason=f"{old}: {reason}", hint=hint)
    if answer.age > max(2 * feed.fresh, 600.0):
        return Missing(backend=live.name, reason=f"{old}; newer ones are being asked for", hint="")
    return None


def ask(names: Sequence[str], seconds: float = 0.0) -> tuple[dict[str, tuple[Live, Answer]], dict[str, DstackJupyterError]]:
    """(what is known of each source, why others cannot be asked). All are asked at once.

    Waits for the sources' own patience, and for ``seconds`` if that is more, together.
    """
    lives: dict[str, Live] = {}
    errors: dict[str, DstackJupyterError] = {}
    for name in names:
        try:
            lives[name] = of(name)
            lives[name].begin()
        except DstackJupyterError as error:
            errors[name] = error
    began = time.monotonic()
    return {name: (live, live.answer(began + max(seconds, live.source.feed.patience))) for name, live in lives.items()}, errors


def known_tables(names: Sequence[str]) -> list[OfferTable]:
    """The answers that this process has of these backends."""
    with _making:
        tables = [live.answer().table for live in _lives.values() if live.name in names]
    return [table for table in tables if table is not None]


def hand_over() -> None:
    """Hand the open questions of this process, which ends now, to a process of their own. Does not block; raises nothing."""
    with _making:
        names = [live.name for live in _lives.values() if live.source.feed.kept and live.answer().asking_for is not None]
    if names:
        try:
            spawn_detached([sys.executable, "-m", __name__, *names], os.environ)
        except OSError as error:
            log.warning("nobody asks for the offers of %s: %s", ", ".join(names), error)


def main(names: Sequence[str]) -> None:
    known = [name for name in names if name in registry.entries]
    ask(known, max((registry.load(name).feed.deadline for name in known), default=0.0) * 2)


if __name__ == "__main__":
    main(sys.argv[1:])
