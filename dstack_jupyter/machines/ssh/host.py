"""One host over one connection: answers about job folders, news of them, files in and out.

A connection carries two lasting processes of ours (``serve.sh`` answers, ``watch.sh`` tells) and a channel for each transfer:
far fewer than the ten sessions that sshd allows by default.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shlex
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...models.errors import ConfigurationError, NotFound, StorageFull, Unreachable
from .connection import Address, Connections, run
from .facts import Hello, parse_hello, script

if TYPE_CHECKING:
    import asyncssh

log = logging.getLogger(__name__)

ANSWER = 30.0
"""Seconds that an answer of serve.sh may take."""
QUIET = 50.0
"""Seconds without a sign of life of the watcher (it gives one every 10 s at most) after which the link counts as dead."""
FRESH = 600.0
"""Seconds that facts of a host stay good."""
CHANNELS = 6
"""Commands and transfers at a time beside the two lasting processes: sshd allows ten sessions by default (MaxSessions)."""
BEGINS = "dj-begins-here"
"""What a script of ours says first. Before it a login shell may have greeted: sshd's bash reads .bashrc."""
TRIES = (1.0, 1.0, 2.0, 2.0, 5.0)
"""Seconds between attempts to come back to a host that has watched jobs; the last one repeats."""


@dataclass(slots=True)
class Session:
    """What belongs to one connection and dies with it."""

    connection: asyncssh.SSHClientConnection
    hello: Hello
    serve: Any
    watch: Any
    watcher: asyncio.Task[None]

    def end(self) -> None:
        """Close what we have open on the connection, which others may share: sshd allows ten sessions on each."""
        self.watcher.cancel()
        for process in (self.serve, self.watch):
            process.close()


def command(name: str, *arguments: object) -> str:
    """A command line that runs a script of ours in sh with arguments."""
    return shell(script(name), *arguments)


def shell(text: str, *arguments: object) -> str:
    """A command line that runs ``text`` in sh with arguments, after BEGINS."""
    words = ["sh", "-c", f"echo {BEGINS}\n{text}", "dj", *map(str, arguments)]
    return " ".join(shlex.quote(word) for word in words)


async def begun(stdout: Any) -> None:
    """Read up to the end of BEGINS. Raises IncompleteReadError where that never comes."""
    while (line := await stdout.readline()) != f"{BEGINS}\n".encode():
        if not line:
            raise asyncio.IncompleteReadError(b"", None)


class Host:
    """Use it from the engine's loop. ``news`` is called with a job's id, or '' when anything may have changed."""

    def __init__(self, connections: Connections, address: Address) -> None:
        self.address = address
        self._connections = connections
        self._session: Session | None = None
        self._opening = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._channels = asyncio.Semaphore(CHANNELS)
        self._listeners: dict[str, Callable[[], None]] = {}
        self._returning: asyncio.Task[None] | None = None
        self._greeted = 0.0
        self.boot = ""

    async def session(self) -> Session:
        """The living session, made if there is none. Raises Unreachable, HostKeyChanged, ConfigurationError."""
        async with self._opening:
            living = self._session
            if living is not None and not living.connection.is_closed():
                return living
            connection = await self._connections.get(self.address)
            self._session = await self._open(connection)
            self.boot = self._session.hello.boot
            self._tell_all()
            return self._session

    async def _open(self, connection: asyncssh.SSHClientConnection) -> Session:
        import asyncssh

        hello = await self._greet(connection)
        async with contextlib.AsyncExitStack() as opened:
            try:
                serve = await connection.create_process(command("serve.sh", hello.root, int(hello.dd)), encoding=None)
                opened.callback(serve.close)
                watch = await connection.create_process(command("watch.sh", hello.root, int(hello.naps)), encoding=None)
                opened.callback(watch.close)
                await asyncio.wait_for(begun(serve.stdout), ANSWER)
            except (OSError, asyncssh.Error, asyncio.IncompleteReadError, TimeoutError) as error:
                raise Unreachable(f"{self.address.hostname}: the link broke: {error}") from error
            opened.pop_all()
        return Session(connection, hello, serve, watch, asyncio.get_running_loop().create_task(self._listen(watch)))

    async def _greet(self, connection: asyncssh.SSHClientConnection) -> Hello:
        code, output, errors = await self._run(connection, command("hello.sh"))
        if code:
            complaint = errors.strip().partition("\n")[0]
            raise Unreachable(f"{self.address.hostname} cannot be used: {complaint or f'exit code {code}'}")
        self._greeted = time.monotonic()
        hello = parse_hello(output)
        return replace(hello, clock_ahead=hello.time - time.time()) if hello.time else hello

    async def run(self, line: str) -> tuple[int, str, str]:
        """(exit code, output, errors) of a short ``command`` or ``shell``. Raises Unreachable, HostKeyChanged."""
        return await self._run((await self.session()).connection, line)

    async def _run(self, connection: asyncssh.SSHClientConnection, line: str) -> tuple[int, str, str]:
        async with self._channels:
            code, output, errors = await run(connection, line)
        _, _, answer = output.decode("utf-8", "replace").partition(f"{BEGINS}\n")
        return code, answer, errors.decode("utf-8", "replace")

    async def look_around(self) -> Hello:
        """Facts of the host, asked again where something was missing or the answer is old. Raises Unreachable."""
        session = await self.session()
        missing = session.hello.problems or session.hello.docker_problem
        if missing or time.monotonic() - self._greeted > FRESH:
            session.hello = await self._greet(session.connection)
        return session.hello

    async def _listen(self, watcher: Any) -> None:
        """Pass on what the watcher tells; when it falls silent, drop the connection and come back."""
        import asyncssh

        try:
            while line := await asyncio.wait_for(watcher.stdout.readline(), QUIET):
                name = line.decode("ascii", "replace").strip()
                self.tell(name)
        except (OSError, asyncssh.Error, TimeoutError):
            pass
        await self.drop()
        if self._listeners:
            self._tell_all()
            self._returning = asyncio.get_running_loop().create_task(self._return())

    async def _return(self) -> None:
        for number in range(1 << 30):
            await asyncio.sleep(TRIES[min(number, len(TRIES) - 1)])
            if not self._listeners:
                return
            with contextlib.suppress(Exception):
                await self.session()
                return

    def tell(self, attempt_id: str) -> None:
        """There is news of a job, whoever knows it."""
        if attempt_id in self._listeners:
            self._listeners[attempt_id]()

    def _tell_all(self) -> None:
        for changed in list(self._listeners.values()):
            changed()

    async def drop(self) -> None:
        """Close the connection; the next question opens a new one."""
        session, self._session = self._session, None
        if session is not None:
            await self._connections.forget(self.address)

    def listen(self, attempt_id: str, changed: Callable[[], None]) -> None:
        self._listeners[attempt_id] = changed

    def unlisten(self, attempt_id: str) -> None:
        self._listeners.pop(attempt_id, None)

    async def ask(self, question: str) -> tuple[str, bytes]:
        """(the line that serve.sh answers, the bytes that follow it). Raises Unreachable."""
        import asyncssh

        session = await self.session()
        async with self._asking:
            try:
                async with asyncio.timeout(ANSWER):
                    session.serve.stdin.write(question.encode("ascii") + b"\n")
                    line = (await session.serve.stdout.readline()).decode("utf-8", "replace")
                    if not line.endswith("\n"):
                        raise asyncssh.ConnectionLost("no answer")
                    size = int(line.split(" ", 3)[2]) if question.startswith("look ") else 0
                    data = await session.serve.stdout.readexactly(size) if size else b""
            except (OSError, ValueError, asyncssh.Error, asyncio.IncompleteReadError, TimeoutError) as error:
                # An answer that was cut leaves the rest in the channel: nothing of this connection is used again.
                if self._session is session:
                    await self.drop()
                raise Unreachable(f"{self.address.hostname} does not answer") from error
        return line.rstrip("\n"), data

    async def send(self, line: str, pieces: AsyncIterator[bytes], *, limit: float) -> str:
        """Run a command with ``pieces`` as its input; returns its output. Raises what its exit code means."""
        import asyncssh

        session = await self.session()
        try:
            async with self._channels, asyncio.timeout(limit):
                process = await session.connection.create_process(line, encoding=None)
                try:
                    async for piece in pieces:
                        process.stdin.write(piece)
                        await process.stdin.drain()
                    process.stdin.write_eof()
                except (BrokenPipeError, ConnectionResetError):
                    pass  # it ended early: its exit code says why
                output, errors = await process.communicate()
                code = process.exit_status
        except (OSError, asyncssh.Error, TimeoutError) as error:
            raise Unreachable(f"{self.address.hostname}: the link broke while files were sent") from error
        if code == 0:
            return bytes(output or b"").decode("utf-8", "replace")
        complaints = bytes(errors or b"").decode("utf-8", "replace").strip()
        complaint = (complaints or f"exit code {code}").splitlines()[-1]
        if "No space left" in complaints or "quota" in complaints.lower():
            raise StorageFull(
                f"the disk of {self.address.hostname} is full", hint="free some space; the run starts by itself then"
            )
        if code in (74, 75, 76):
            raise ConfigurationError(f"{self.address.hostname}: {complaint}")
        raise Unreachable(f"{self.address.hostname}: {complaint}")

    async def receive(self, line: str) -> AsyncIterator[bytes]:
        """The output of a command, piece by piece. Raises NotFound, ConfigurationError by its exit code, Unreachable."""
        import asyncssh

        session = await self.session()
        try:
            async with self._channels:
                process = await session.connection.create_process(line, encoding=None, stdin=asyncssh.DEVNULL)
                await asyncio.wait_for(begun(process.stdout), QUIET)
                while piece := await asyncio.wait_for(process.stdout.read(1 << 18), QUIET):
                    yield piece
                errors = (await process.stderr.read()).decode("utf-8", "replace").strip()
                await process.wait()
        except (OSError, asyncssh.Error, asyncio.IncompleteReadError, TimeoutError) as error:
            raise Unreachable(f"{self.address.hostname}: the link broke while files were fetched") from error
        if process.exit_status == 77:
            raise NotFound(errors)
        if process.exit_status == 78:
            raise ConfigurationError(errors)
        if process.exit_status:
            raise Unreachable(f"{self.address.hostname}: {errors or 'the files could not be read'}")

    async def close(self) -> None:
        self._listeners.clear()
        if self._returning is not None:
            self._returning.cancel()
        session, self._session = self._session, None
        if session is not None:
            session.end()
