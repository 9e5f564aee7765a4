"""What a machine that we made does at its first boot: cloud-init's user-data, built as data.

In this order: the guard that powers off a machine which nobody needs (D7), the firewall, our host key and login keys (D6), then
what the image lacks. No secret in it outlives the first contact: the host key is this machine's own, and is renewed then.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml

from ..models.errors import ConfigurationError
from .shells import quote

LEAST_SILENCE = 30 * 60
"""Seconds without a word from the engine before a machine ends itself, at least."""
LIBRARY = "/usr/local/lib/dstack-jupyter"
STATE = "/var/lib/dstack-jupyter"
ALIVE = f"{STATE}/guard/alive"
"""Touched over SSH by the engine: a word from it."""
LIMITS = f"{STATE}/guard/limits"
"""``<silence> <age>``: put in place anew where a machine changes hands."""
WHY = f"{STATE}/guard/why"
"""What the guard wrote before it ended the machine."""
PREPARED = f"{STATE}/prepared"
"""``ok``, or ``failed: …``; absent while the first boot goes on."""

DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""The pure one takes the engine's loop 5 ms for each order, this one 0.4; both write the same."""
KEY = re.compile(r"[a-z0-9@.-]{4,64} [A-Za-z0-9+/]{16,}={0,3}")
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
MOTD = "This machine was made by dstack_jupyter and ends itself when it is not needed. Whose it is: {}\n"

SERVICE = """\
[Unit]
Description=dstack_jupyter: power off when nobody needs this machine
DefaultDependencies=no

[Service]
Type=oneshot
TimeoutStartSec=60
ExecStart=/bin/sh {library}/guard.sh
"""
TIMER = """\
[Unit]
Description=dstack_jupyter: look whether anybody needs this machine
DefaultDependencies=no

[Timer]
OnActiveSec={tick}
OnUnitActiveSec={tick}
AccuracySec=1s

[Install]
WantedBy=timers.target
"""
RENEW_HOST_KEY = """\
set -e; umask 077; cd /etc/ssh; rm -f dj-next dj-next.pub
ssh-keygen -q -t ed25519 -N '' -C '' -f dj-next
cat dj-next.pub
"""
"""Over the first, verified connection: makes the host key that user-data never held and prints its public half, to be pinned."""
USE_HOST_KEY = """\
set -e; cd /etc/ssh; mv dj-next ssh_host_ed25519_key; mv dj-next.pub ssh_host_ed25519_key.pub
rm -f /var/lib/cloud/instance/user-data.txt* /var/lib/cloud/instance/cloud-config.txt
systemctl reload ssh 2>/dev/null || systemctl reload sshd
"""
"""When it is pinned: sshd shows it from now on, and what user-data left on the disk goes."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a machine's first boot is made from.

    ``host_private`` and ``host_public``: an ed25519 key of this machine alone, OpenSSH's forms. ``login_keys``: public keys,
    ``<algorithm> <base64>``, that may log in as ``user``. ``labels`` tell a person on the machine whose it is.
    """

    host_private: str
    host_public: str
    login_keys: tuple[str, ...]
    user: str = "root"
    silence: int = LEAST_SILENCE
    """Seconds without a word and without a job after which it powers off; 0: never."""
    age: int = 0
    """Seconds after which it powers off whatever runs; 0: never."""
    tick: int = 60
    """Seconds between two looks of the guard."""
    labels: Mapping[str, str] = field(default_factory=dict)


def silence_of(idle_duration: int | None) -> int:
    """The guard's silence for an ``idle_duration`` in seconds; None is `off`, which arms nothing."""
    return 0 if idle_duration is None else max(LEAST_SILENCE, idle_duration)


@cache
def script(name: str) -> str:
    """A script of the ``guest`` folder: what runs on the machine itself."""
    return Path(__file__).with_name("guest").joinpath(name).read_text()


def user_data(recipe: Recipe) -> str:
    """The user-data, about 8 KiB, the same for the same recipe. Raises ConfigurationError for a key or a user that is none."""
    for key in (recipe.host_public, *recipe.login_keys):
        if not KEY.fullmatch(key):
            raise ConfigurationError("a public key must be `<algorithm> <base64>` on one line")
    if not USER.fullmatch(recipe.user):
        raise ConfigurationError(f"{recipe.user!r} cannot be a user's name")
    if "PRIVATE KEY" not in recipe.host_private:
        raise ConfigurationError("the host key is not in OpenSSH's form")
    config: dict[str, Any] = {
        # Before anything that may take long or fail; at every boot.
        "bootcmd": [["sh", "-c", _arm(recipe)]],
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": recipe.host_private, "ed25519_public": recipe.host_public},
        "ssh_pwauth": False,
        "ssh": {"emit_keys_to_console": False},
        "disable_root": recipe.user != "root",
        "ssh_authorized_keys": list(recipe.login_keys),
        "write_files": [
            _file(f"{LIBRARY}/prepare.sh", script("prepare.sh")),
            _file(f"{STATE}/instance.json", json.dumps(dict(recipe.labels), ensure_ascii=False, indent=2)),
            _file("/etc/motd", MOTD.format(f"{STATE}/instance.json")),
        ],
        "runcmd": [["sh", f"{LIBRARY}/prepare.sh"]],
    }
    return "#cloud-config\n" + yaml.dump(config, Dumper=DUMPER, sort_keys=False, allow_unicode=False, width=1000)


def _file(path: str, text: str) -> dict[str, str]:
    return {"path": path, "encoding": "gz+b64", "content": _packed(text), "permissions": "0644"}


@lru_cache(16)
def _packed(text: str) -> str:
    """Compressed, for vendors take as little as 16 KiB; the same whenever it is made, for a retry sends the same order."""
    return base64.b64encode(gzip.compress(text.encode("utf-8", "surrogatepass"), mtime=0)).decode()


def _arm(recipe: Recipe) -> str:
    """The script of ``bootcmd``: guard and firewall. What the engine has changed since the first boot stays."""
    lines = [f"mkdir -p {LIBRARY} {STATE}/guard"]
    if recipe.silence or recipe.age:
        lines += [
            _put(f"{LIBRARY}/guard.sh", script("guard.sh")),
            _put("/etc/systemd/system/dj-guard.service", SERVICE.format(library=LIBRARY)),
            _put("/etc/systemd/system/dj-guard.timer", TIMER.format(tick=int(recipe.tick))),
            f"[ -e {LIMITS} ] || echo {quote(f'{int(recipe.silence)} {int(recipe.age)}')} >{LIMITS}",
            "systemctl daemon-reload",
            "systemctl enable dj-guard.timer",
            "systemctl start --no-block dj-guard.timer",
        ]
    lines += [_put(f"{LIBRARY}/firewall.sh", script("firewall.sh")), f"sh {LIBRARY}/firewall.sh"]
    return "\n".join(lines)


def _put(path: str, text: str) -> str:
    return f"echo {_packed(text)} | base64 -d | gzip -dc >{path}"
