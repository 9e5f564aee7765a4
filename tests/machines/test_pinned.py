"""Whose machine answers is known by its host key, before anything is sent (D6)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest

from dstack_jupyter.machines.ssh.connection import Address, Connections, run
from dstack_jupyter.models.errors import HostKeyChanged
from tests.machines.conftest import Pins


class Door:
    """An SSH server here that lets one key in, as a machine does; it notes who came as far as a login."""

    def __init__(self, folder: Path) -> None:
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.own_key = folder / "own"
        login = asyncssh.generate_private_key("ssh-ed25519")
        login.write_private_key(self.own_key)
        self.own_key.chmod(0o600)
        self._let_in = asyncssh.import_authorized_keys(login.export_public_key().decode())
        self.logins: list[str] = []
        self.port = 0

    @property
    def shown(self) -> str:
        return " ".join(self.host_key.export_public_key().decode().split()[:2])

    async def open(self) -> asyncssh.SSHAcceptor:
        door = self

        class Server(asyncssh.SSHServer):
            def begin_auth(self, username: str) -> bool:
                door.logins.append(username)
                return True

        def greet(process: asyncssh.SSHServerProcess[str]) -> None:
            process.stdout.write(f"you said {process.command}")
            process.exit(0)

        opened = await asyncssh.create_server(
            Server,
            "127.0.0.1",
            0,
            server_host_keys=[self.host_key],
            authorized_client_keys=self._let_in,
            process_factory=greet,
        )
        self.port = opened.get_port()
        return opened


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    found = Door(tmp_path)
    async with await found.open():
        yield found


@pytest.fixture
async def pins() -> Pins:
    return Pins()


@pytest.fixture
async def connections(door: Door, pins: Pins) -> AsyncIterator[Connections]:
    found = Connections(pins, door.own_key)
    yield found
    await found.close()


async def test_the_pinned_key_is_let_in_and_a_first_contact_pins_what_it_saw(
    door: Door, pins: Pins, connections: Connections
) -> None:
    address = Address("127.0.0.1", door.port, "root")
    assert (await run(await connections.get(address), "hello"))[:2] == (0, b"you said hello")
    assert pins.known == {address.endpoint: door.shown}
    await connections.forget(address)
    assert (await run(await connections.get(address), "again"))[:2] == (0, b"you said again")


async def test_nobody_with_another_key_hears_who_we_are(door: Door, pins: Pins, connections: Connections) -> None:
    address = Address("127.0.0.1", door.port, "root")
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    pins.known[address.endpoint] = before = " ".join(other.split()[:2])
    with pytest.raises(HostKeyChanged, match="nothing was sent"):
        await connections.get(address)
    assert (door.logins, pins.known[address.endpoint]) == ([], before)


async def test_nobody_with_a_key_of_another_kind_hears_who_we_are(door: Door, pins: Pins, connections: Connections) -> None:
    address = Address("127.0.0.1", door.port, "root")
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode()
    pins.known[address.endpoint] = " ".join(other.split()[:2])
    with pytest.raises(HostKeyChanged, match="nothing was sent"):
        await connections.get(address)
    assert door.logins == []
