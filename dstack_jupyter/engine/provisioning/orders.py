"""The instance request of a machine: a function of its rows and our keys, so that every retry sends the same."""

from __future__ import annotations

from functools import lru_cache, partial

from ...backends.base import InstanceRequest
from ...machines import userdata
from ...models.stored import Limits
from ..keys.ssh_keys import KeyPair, Keys
from ..store.rows import InstanceRow

AFTER_ITS_TIME = 3600
"""Seconds beyond ``max_duration`` after which a machine ends itself whatever runs: starting and a job's last words take time."""

REMEMBERED = 1024
"""Host keys that are cached: each look needs a machine's key until first contact."""


def guard_times(limits: Limits) -> dict[str, int]:
    """``silence`` and ``age`` in seconds (``userdata.Recipe``) of the machine of a run or fleet; stored with its intent."""
    idle = limits.idle_duration
    # Other jobs may follow on a kept machine: a timer beside each job ends it.
    longest = 0 if limits.keeps else limits.max_duration
    return {
        "silence": userdata.silence_of(None if idle == "off" else idle or 0),
        "age": longest + AFTER_ITS_TIME if longest else 0,
    }


class Maker:
    """Makes instance requests, on the engine's loop. The first use of a key writes a file."""

    def __init__(self, keys: Keys, installation: str) -> None:
        self._keys = keys
        self._installation = installation
        self._derived = lru_cache(REMEMBERED)(partial(keys.of_run, use="host key"))

    def host_key(self, instance_id: str) -> KeyPair:
        """The key that a machine shows at its first contact: derived, so it is known before there is a machine (D6)."""
        return self._derived(instance_id)

    def request(self, instance: InstanceRow, *, first: bool = False) -> InstanceRequest:
        """The instance request without its cloud resources: the vendor names those, by this request."""
        login = " ".join(self._keys.public.split()[:2])
        host = self.host_key(instance.id)
        tags = {
            "dj-installation": self._installation,
            "dj-project": instance.project,
            "dj-instance": instance.id,
            "dj-created": f"{instance.created_at:.0f}",
        }
        if age := instance.data.age:
            tags["dj-expires"] = f"{instance.created_at + age:.0f}"
        recipe = userdata.Recipe(
            host_private=host.private,
            host_public=host.public,
            login_keys=(login,),
            silence=userdata.LEAST_SILENCE if instance.data.silence is None else instance.data.silence,
            age=age,
            labels={**tags, "identity": instance.identity},
        )
        return InstanceRequest(instance.identity, instance.offer, userdata.user_data(recipe), login, first=first, tags=tags)
