"""What is done on a machine that we made, beside its jobs: its first boot's end, its own host key, a word to its guard."""

from __future__ import annotations

from enum import StrEnum

from ...models.errors import Unreachable
from .. import userdata
from .facts import Hello
from .host import Host, shell


class FirstBoot(StrEnum):
    GOES_ON = ""
    OK = "ok"
    FAILED = "failed"

    @classmethod
    def read(cls, said: str) -> FirstBoot:
        """What a machine's own word for it means: prepare.sh writes ``ok``, or ``failed`` and what to do."""
        if said.startswith(cls.FAILED):
            return cls.FAILED
        return cls.OK if said == cls.OK else cls.GOES_ON


class Guest:
    """Use it from the engine's loop. Everything raises Unreachable and HostKeyChanged, and may be done again."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def prepared(self) -> tuple[FirstBoot, str]:
        """(how far the first boot is, what the machine says of it in words)."""
        said = (await self._run(f"cat {userdata.PREPARED} 2>/dev/null || :")).strip()
        return FirstBoot.read(said), said

    async def next_host_key(self) -> str:
        """Make a host key that was never in user-data; the machine does not show it yet. Returns its public half."""
        return " ".join((await self._run(userdata.RENEW_HOST_KEY)).split()[:2])

    async def use_host_key(self) -> None:
        """The machine shows the key of ``next_host_key`` from now on. The connection is closed: the next one must see it."""
        await self._run(userdata.USE_HOST_KEY)
        await self._host.drop()

    async def greet(self) -> Hello:
        """Facts of the machine."""
        return await self._host.look_around()

    async def heartbeat(self) -> None:
        """Keep the guard quiet for its silence: the engine lives, and knows of this machine."""
        await self._run(f"mkdir -p {userdata.STATE}/guard && touch {userdata.ALIVE}")

    async def _run(self, text: str) -> str:
        root = self._host.address.user == "root"
        code, output, errors = await self._host.run(shell(text) if root else shell('sudo -n sh -c "$1"', text))
        if code:
            complaint = (errors.strip() or f"exit code {code}").splitlines()[-1]
            raise Unreachable(f"{self._host.address.hostname}: {complaint}")
        return output
