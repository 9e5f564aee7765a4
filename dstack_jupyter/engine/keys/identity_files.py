"""Which private keys a request may name, and where a row's key is on this machine.

Who may run code in the engine's account can read its files and names any of them. Of others (engines share the store, or the
Jupyter server lets somebody apply fleets but run nothing) a path would make the engine read, log in with or tell of files that
are not theirs: they name a key of ``keys/hosts`` of the home, where who administers the machine has put it. Names say nothing of
machines, so any engine of a store finds its own copy.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from ...machines.ssh.connection import Address
from ...models.errors import Forbidden
from ...models.home import Home


def stored(name: str | None, base: str, home: Home, *, anywhere: bool) -> str:
    """What a row keeps of an ``identity_file``: '' for none, an absolute path (relative ones begin at ``base``), or a bare name.

    Raises Forbidden for a path where not ``anywhere``, whatever is there: no file is looked at.
    """
    if not name:
        return ""
    if anywhere:
        path = Path(name).expanduser()
        return str(path if path.is_absolute() else Path(base or os.sep) / path)
    if "/" in name or "\0" in name or name.startswith((".", "~")):
        raise Forbidden(
            f"identity_file {name!r} is a path on a machine whose files are not yours to name",
            hint=f"who administers the engine's machine puts the key into {home.host_keys}, 0600, and you give its bare name; "
            "without identity_file the engine's own key is used",
        )
    return name


def located(address: Address, home: Home) -> Address:
    """The address with its key files, and those of its jump hosts, as they are on this machine."""
    proxy = located(address.proxy, home) if address.proxy else None
    return replace(address, identity_file=path_of(address.identity_file, home), proxy=proxy)


def path_of(kept: str, home: Home) -> str:
    return str(home.host_keys / kept) if kept and "/" not in kept else kept
