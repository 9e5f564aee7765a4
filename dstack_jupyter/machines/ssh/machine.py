"""``Machine`` for a host reached by SSH: jobs as processes, or in Docker where the job asks for a container."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ...models.errors import ConfigurationError, Conflict, DstackJupyterError, Unreachable
from ..base import DroppedReason, Ending, JobReport, JobSpec, Phase, Preparing
from ..docker.launcher import FOLDER, WORK, DockerLauncher
from ..gpu_tools import parse_utilization
from . import bundle
from .connection import Address, Connections
from .facts import Hello
from .host import Host, command, shell

log = logging.getLogger(__name__)

CLAIM = "/var/tmp/dstack_jupyter.claim"  # noqa: S108 - made exclusively, never followed
"""The file on a host that says whose it is: where every user of the host can see it."""
UPLOAD = 1800.0
"""Seconds that the files of a job may take to travel."""
FIRST_LOOKS = (0.03, 0.08, 0.15, 0.3, 0.6)
"""Seconds after a launch at which to look without waiting to be told: the watcher may be napping."""
SENDING = Preparing(Phase.SENDING, "sending files")


class SSHMachine:
    """Made by the engine for each host; shares its connection with whoever else has jobs there. It claims for ``fleet``."""

    def __init__(self, connections: Connections, address: Address, installation: str, fleet: str) -> None:
        self.host = Host(connections, address)
        self._installation = installation
        self._fleet = fleet
        self._docker = DockerLauncher(self.host, installation)
        self._launching: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, DstackJupyterError] = {}

    async def hello(self) -> Hello:
        """Facts of the host, as they were when the connection was made. Raises Unreachable, HostKeyChanged."""
        return (await self.host.session()).hello

    async def look_around(self) -> Hello:
        """Facts of the host as they are now, or were within ten minutes. Raises Unreachable, HostKeyChanged."""
        return await self.host.look_around()

    async def claim(self, instance: str, gone: Callable[[str], Awaitable[bool]]) -> None:
        """Make the host this installation's, for one instance of the fleet; again changes nothing.

        ``gone`` tells of another instance of this installation whether it was given back: what it left is taken away. Raises
        Conflict with the owner's name where the host is another's, or where ``instance`` itself was given back before.
        """
        verdict, owner, fleet, who, holder = await self._claim("claim", instance)
        if verdict == "theirs" and owner == self._installation and await gone(holder):
            await self.unclaim(holder)
            verdict, owner, fleet, who, _ = await self._claim("claim", instance)
        if verdict == "theirs":
            whose = f"fleet {fleet}" + ("" if owner == self._installation else f" of installation {owner} ({who})")
            raise Conflict(
                f"{self.host.address.hostname} belongs to {whose}",
                hint=f"delete that fleet there first; if it is gone for good, remove {CLAIM} on the host",
            )
        if verdict == "late":
            raise Conflict(f"{self.host.address.hostname} was given back", hint="apply the fleet again to use it")

    async def unclaim(self, instance: str) -> None:
        """Give the host back, for ever as far as that instance goes: a claim of it that is still on its way comes to nothing."""
        await self._claim("release", instance)

    async def _claim(self, verb: str, instance: str) -> list[str]:
        """What claim.sh prints: five words, `?` for those that are not there."""
        stones = f"{(await self.hello()).root}/released"
        line = command("claim.sh", verb, CLAIM, stones, self._installation, instance, self._fleet)
        code, output, errors = await self.host.run(line)
        if code:
            raise Unreachable(f"{self.host.address.hostname}: {errors.strip()}")
        return [*output.split(), *"?????"][:5]

    async def launch(self, spec: JobSpec) -> None:
        if spec.attempt_id in self._launching:
            return
        hello = await self.hello()
        if spec.container is None:
            await self._launch_process(spec, hello)
            return
        if not hello.docker_socket:
            raise ConfigurationError(f"{self.host.address.hostname} cannot run containers: {hello.docker_problem}")
        self._refused.pop(spec.attempt_id, None)
        self._launching[spec.attempt_id] = asyncio.get_running_loop().create_task(self._launch_container(spec, hello))

    async def _launch_process(self, spec: JobSpec, hello: Hello) -> None:
        env = {"HOME": hello.home, "USER": hello.user, "LOGNAME": hello.user, "PATH": hello.path, "PYTHONUNBUFFERED": "1"}
        folder = f"{hello.root}/jobs/{spec.attempt_id}"
        await self._send_folder(spec, hello, "process", folder, f"{folder}/work", env)

    async def _send_folder(self, spec: JobSpec, hello: Hello, mode: str, folder: str, work: str, env: dict[str, str]) -> None:
        """Make the job folder there (and, with mode ``process``, start it). ``folder``, ``work``: as the job sees them."""
        arguments = (hello.root, spec.attempt_id, mode, spec.log_limit, spec.max_duration, spec.stop_duration, spec.shell)
        pieces = bundle.stream(bundle.texts(spec, folder, work, env), [archive.path for archive in spec.archives])
        async with contextlib.aclosing(pieces):  # type: ignore[type-var]
            await self.host.send(command("launch.sh", *arguments), pieces, limit=UPLOAD)

    async def _launch_container(self, spec: JobSpec, hello: Hello) -> None:
        try:
            spec = await self._docker.prepared(spec, hello)
            await self._send_folder(spec, hello, "folder", FOLDER, WORK, {"PYTHONUNBUFFERED": "1"})
            await self._docker.start(spec, hello)
        except DstackJupyterError as error:
            self._refused[spec.attempt_id] = error
        except Exception as error:
            # Unforeseen: without a word about it, the job would be launched again for ever.
            log.exception("the launch of %s", spec.attempt_id)
            self._refused[spec.attempt_id] = ConfigurationError(f"the launch failed: {type(error).__name__}: {error}")
        finally:
            self._launching.pop(spec.attempt_id, None)
            self.host.tell(spec.attempt_id)

    async def look(self, attempt_id: str, offset: int, limit: int) -> JobReport:
        if attempt_id in self._launching:
            return JobReport(started=False, preparing=self._docker.progress.get(attempt_id, SENDING))
        if (error := self._refused.get(attempt_id)) is not None:
            if isinstance(error, Unreachable):
                del self._refused[attempt_id]
                raise error
            return JobReport(started=False, refused=error.text)
        line, data = await self.host.ask(f"look {attempt_id} {offset} {limit}")
        head, _, dropped = line.partition(" | ")
        started, live, _, *exit_words = head.split()
        if started != "1":
            return JobReport(started=False, refused=await self._docker.stillborn(attempt_id, await self.hello()))
        if len(data) == limit:
            return JobReport(started=True, data=data)
        if exit_words:
            return JobReport(started=True, data=data, ending=_ending(exit_words, dropped))
        if live == "1":
            return JobReport(started=True, data=data)
        return await self._without_supervisor(attempt_id, data)

    async def _without_supervisor(self, attempt_id: str, data: bytes) -> JobReport:
        """No supervisor and no ending: it is about to begin, or something took it away."""
        hello = await self.hello()
        if (lost := await self._docker.lost(attempt_id, hello)) is None:
            return JobReport(started=True, data=data)
        line, _ = await self.host.ask(f"boot {attempt_id}")
        if line == "other":
            return JobReport(started=True, data=data, lost="the host was booted while the job ran", interrupted=True)
        if line == "young" and not lost:
            return JobReport(started=True, data=data)
        return JobReport(started=True, data=data, lost=lost or "the job's supervisor is gone: it was killed")

    async def end(self, attempt_id: str, *, abort: bool) -> bool:
        launching = self._launching.get(attempt_id)
        if launching is not None:
            launching.cancel()
            await asyncio.wait({launching})
        number = "USR1" if abort else "TERM"
        if await self._docker.signal(attempt_id, number, await self.hello()):
            return True
        line, _ = await self.host.ask(f"end {attempt_id} {number}")
        return line != "later"

    def watch(self, attempt_id: str, changed: Callable[[], None]) -> None:
        self.host.listen(attempt_id, changed)
        changed()
        for delay in FIRST_LOOKS:
            asyncio.get_running_loop().call_later(delay, self.host.tell, attempt_id)

    def unwatch(self, attempt_id: str) -> None:
        self.host.unlisten(attempt_id)
        self._refused.pop(attempt_id, None)

    async def pull(self, attempt_id: str, path: str) -> AsyncIterator[bytes]:
        hello = await self.hello()
        async for piece in self.host.receive(command("pull.sh", hello.root, attempt_id, path)):
            yield piece

    async def ports(self, attempt_id: str) -> dict[int, int]:
        return await self._docker.ports(attempt_id, await self.hello())

    async def utilization(self, vendor: str, gpus: tuple[int, ...]) -> list[int]:
        if vendor != "nvidia" or not gpus:
            return []
        query = f"nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits -i {','.join(map(str, gpus))}"
        code, output, _ = await self.host.run(shell(query))
        return parse_utilization(output) if code == 0 else []

    async def connect(self, port: int) -> tuple[Any, Any]:
        import asyncssh

        session = await self.host.session()
        try:
            return await session.connection.open_connection("127.0.0.1", port, encoding=None)
        except (OSError, asyncssh.Error) as error:
            raise Unreachable(f"{self.host.address.hostname}: nothing answers at port {port}") from error

    async def finish(self, attempt_id: str) -> None:
        """An ended job is not watched any more; its container goes, its folder stays for ``pull``."""
        await self.host.ask(f"forget {attempt_id}")
        await self._docker.remove(attempt_id, await self.hello())

    async def remove(self, attempt_id: str) -> None:
        line, _ = await self.host.ask(f"remove {attempt_id}")
        if line == "left":
            await self._docker.delete_folder(attempt_id, await self.hello())

    async def close(self) -> None:
        for task in self._launching.values():
            task.cancel()
        await self.host.close()


def _ending(words: list[str], dropped: str) -> Ending:
    """What `exit` and `dropped` say; a host may hold anything there."""
    code = int(words[0]) if words[0].isdigit() and len(words[0]) < 4 else 255
    cause = words[1] if len(words) > 1 and words[1] in ("stopped", "aborted", "max_duration") else ""
    count, _, why = dropped.partition(" ")
    bytes_dropped = int(count) if count.isdigit() and len(count) < 19 else 0
    return Ending(code, cause, bytes_dropped, DroppedReason.read(why.strip()))
