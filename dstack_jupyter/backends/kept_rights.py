"""The result of a backend's last check, for lists that must not wait for a vendor. Each is a small file in the user's cache."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from pydantic import ValidationError

from ..models.backends import PermissionView
from ..models.errors import ConfigurationError
from ..models.home import Home, private_folder, write_private

log = logging.getLogger(__name__)


def _file(name: str, account_id: str) -> Path:
    return private_folder(Home.default().cache / "checks") / f"{name}-{account_id}.json"


def keep(name: str, account_id: str, rows: list[PermissionView]) -> None:
    """Keep what a check found. ``account_id`` tells accounts apart. On a full disk nothing is kept, and the check succeeds."""
    try:
        kept = {"at": time.time(), "rows": [row.model_dump() for row in rows]}
        write_private(_file(name, account_id), json.dumps(kept).encode())
    except (OSError, ConfigurationError) as error:
        log.warning("the check of %s is not kept: %s", name, error)


def kept(name: str, account_id: str) -> tuple[list[PermissionView], float] | None:
    """(what the last check of this account found, its age in seconds); None if there was none. Blocks for one small file."""
    try:
        entry = json.loads(_file(name, account_id).read_bytes())
        return [PermissionView(**row) for row in entry["rows"]], max(0.0, time.time() - float(entry["at"]))
    except (OSError, ConfigurationError):
        return None
    except (ValueError, KeyError, TypeError, ValidationError):
        log.warning("the kept check of %s makes no sense", name)
        return None
