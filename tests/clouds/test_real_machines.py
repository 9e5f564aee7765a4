"""The unchanged backend makes a droplet through the fake's HTTP, and a real machine boots from our user-data: systemd,
cloud-init, sshd, Docker. First contact verifies the host key that was pinned before; the guard powers the machine off.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dstack_jupyter.backends.base import Instance
from dstack_jupyter.engine.keys.ssh_keys import KeyPair, _pair
from dstack_jupyter.machines import userdata
from dstack_jupyter.machines.ssh.connection import Address, Connections
from dstack_jupyter.machines.ssh.machine import SSHMachine
from dstack_jupyter.machines.userdata import Recipe, user_data
from dstack_jupyter.models.errors import HostKeyChanged, Unreachable
from tests.clouds.core import Machine, RealClock
from tests.clouds.fixtures import INSTALLATION, Site
from tests.clouds.real import RealMachines
from tests.hosts.fixtures import BUSYBOX
from tests.machines.conftest import Pins, ended, says, spec

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]


@dataclass
class Rented:
    """A machine as the engine has it: what the vendor says, how it is reached, what is pinned."""

    site: Site
    machines: RealMachines
    made: Instance
    host: KeyPair
    connections: Connections
    pins: Pins
    address: Address

    @property
    def under(self) -> Machine:
        """The machine below the vendor's face."""
        return self.site.cloud.machines[self.made.data["id"]]

    async def run(self, command: str) -> str:
        connection = await self.connections.get(self.address)
        done = await asyncio.wait_for(connection.run(command), 60)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return str(done.stdout)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
    """Looks at another machine four times a second."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        await asyncio.sleep(0.25)


CloudInstance = Callable[..., Awaitable[Rented]]


@pytest.fixture
async def rent(real: RealMachines, make_site: Callable[..., Site], tmp_path: Path) -> AsyncIterator[CloudInstance]:
    """Make a machine, from a create call to a log in that verified its host key."""
    site = make_site(backing=real, clock=RealClock())
    opened: list[Rented] = []

    async def begin(number: int = 1, **recipe: object) -> Rented:
        host, login = _pair(os.urandom(32)), _pair(os.urandom(32))
        key = tmp_path / f"login-{number}"
        key.touch(0o600)
        key.write_text(login.private)
        order = site.order(number)
        text = user_data(Recipe(host.private, host.public, (login.public,), labels={"project": "main"}, **recipe))  # type: ignore[arg-type]
        made = await asyncio.to_thread(site.account.create, replace(order, user_data=text))

        async def reachable() -> bool:
            nonlocal made
            made = await asyncio.to_thread(site.account.get, made.data)
            return bool(made.status == "running" and made.address)

        await until(reachable, 60, "an address")
        address = Address(made.address, made.port, made.user, str(key))
        pins = Pins()
        pins.known[address.endpoint] = host.public  # before anybody has spoken to it
        rented = Rented(site, real, made, host, Connections(pins, key), pins, address)
        opened.append(rented)

        async def logged_in() -> bool:
            try:
                await rented.run("true")
            except Unreachable as error:
                assert not isinstance(error, HostKeyChanged)
                return False
            return True

        try:
            await until(logged_in, 60, "a log in")
        except BaseException:
            print(await asyncio.to_thread(real.console, rented.under))
            raise
        return rented

    yield begin
    for rented in opened:
        await rented.connections.close()


async def prepared(rented: Rented) -> str:
    await until(lambda: _there(rented, userdata.PREPARED), 90, "the first boot's end")
    return (await rented.run(f"cat {userdata.PREPARED}")).strip()


async def _there(rented: Rented, path: str) -> bool:
    return await rented.run(f"[ -e {path} ] && echo yes || echo no") == "yes\n"


async def only_ssh_gets_in(rented: Rented) -> None:
    """What listens on the machine is reached from inside, not from here; containers do not reach the metadata."""
    assert (await rented.run("cat /var/lib/dstack-jupyter/firewall")).strip() == "in place"
    await rented.run("cd /usr/share; setsid python3 -m http.server 8000 >/dev/null 2>&1 </dev/null & echo")
    await until(lambda: _answers(rented, "curl -fsS -m 2 -o /dev/null http://127.0.0.1:8000/"), 20, "the server inside")
    with pytest.raises(TimeoutError):  # dropped, not refused
        await asyncio.wait_for(asyncio.open_connection(rented.address.hostname, 8000), 2)
    rules = await rented.run("iptables -t raw -S PREROUTING")
    assert "-d 169.254.169.254/32 -i docker0 -j DROP" in rules


async def _answers(rented: Rented, command: str) -> bool:
    return (await rented.run(f"{command} && echo yes || echo no")).strip().endswith("yes")


async def test_from_a_create_call_to_a_containers_log_and_gone(rent: CloudInstance, image_folder: Path) -> None:
    rented = await rent(silence=1800)
    assert await prepared(rented) == "ok"
    assert json.loads(await rented.run(f"cat {userdata.STATE}/instance.json")) == {"project": "main"}

    # The image's keys are gone, ours is the only one.
    assert (await rented.run("ls /etc/ssh/ssh_host_*_key")).split() == ["/etc/ssh/ssh_host_ed25519_key"]
    await only_ssh_gets_in(rented)
    assert "active" in await rented.run("systemctl is-active dj-guard.timer")

    # A container, by the same code that runs jobs on hosts of SSH fleets.
    machine = SSHMachine(rented.connections, rented.address, INSTALLATION, "tests")
    job = spec("echo from the container; cat /proc/1/cmdline | tr '\\0' ' '; exit 7", image=BUSYBOX)
    await machine.launch(job)
    report = await ended(machine, seconds=60)
    assert report.ending is not None and report.ending.exit_code == 7
    assert b"from the container" in (await machine.look("a1", 0, 1 << 20)).data
    await machine.close()

    # A host key that user-data never held, fetched over the verified link, then shown.
    fresh = " ".join((await rented.run(userdata.RENEW_HOST_KEY)).split()[:2])
    assert fresh != rented.host.public
    await rented.run(userdata.USE_HOST_KEY)
    await rented.connections.close()
    await until(lambda: _refused(rented), 30, "sshd with its new key")
    rented.pins.known[rented.address.endpoint] = fresh
    rented.connections = Connections(rented.pins, Path(rented.address.identity_file))
    await until(lambda: _there(rented, userdata.PREPARED), 30, "the verified link")
    left = await rented.run("cat /var/lib/cloud/instance/*.txt 2>/dev/null | grep -c 'PRIVATE KEY' || true")
    assert left.strip() in ("0", "")

    account = rented.site.account
    await asyncio.to_thread(account.terminate, rented.made.data)
    assert await asyncio.to_thread(account.get, rented.made.data) is None
    assert await asyncio.to_thread(account.list_all, INSTALLATION) == []


async def _refused(rented: Rented) -> bool:
    """Whether the machine shows another key than the pinned one. While sshd takes its new key nobody listens for a moment."""
    try:
        await Connections(rented.pins, Path(rented.address.identity_file)).get(rented.address)
    except HostKeyChanged:
        return True
    except Unreachable:
        return False
    raise AssertionError("it still shows the key that user-data held")


async def test_another_machine_at_the_same_address_gets_nothing(rent: CloudInstance) -> None:
    """Addresses are used again at once: the key is what tells machines apart."""
    first = await rent(1)
    await first.connections.close()
    await asyncio.to_thread(first.site.account.terminate, first.made.data)
    second = await rent(2)
    assert second.address.hostname == first.address.hostname, "the address was not used again"
    await prepared(second)  # until then cloud-init starts sshd anew, and nobody listens for a moment
    impostor = Connections(first.pins, Path(second.address.identity_file))  # even with a key that the machine knows
    with pytest.raises(HostKeyChanged):
        await impostor.get(second.address)
    await impostor.close()


async def test_the_guard_keeps_a_machine_in_use_and_powers_off_one_that_nobody_needs(rent: CloudInstance) -> None:
    rented = await rent(silence=6, tick=1)
    assert await prepared(rented) == "ok"
    await until(lambda: _there(rented, "/run/dstack-jupyter/guard/counts"), 30, "the guard's first look")

    async def counts() -> list[str]:
        return (await rented.run("cat /run/dstack-jupyter/guard/counts")).split()

    async def age() -> int:
        return int((await counts())[1])

    # A word from the engine now and then.
    began = await age()
    while await age() < began + 9:
        await rented.run(f"touch {userdata.ALIVE}")
    # No word, but a job under way.
    machine = SSHMachine(rented.connections, rented.address, INSTALLATION, "tests")
    await machine.launch(spec("echo begun; until [ -e go ]; do sleep 0.2; done"))
    await says(machine, b"begun")
    began = await age()
    await until(lambda: _older(age, began + 9), 60, "more than the silence")
    # Neither.
    await rented.run("touch $HOME/.dstack_jupyter/jobs/a1/work/go")
    assert (await ended(machine)).ending is not None
    await machine.close()

    async def off() -> bool:
        seen = await asyncio.to_thread(rented.site.account.get, rented.made.data)
        return bool(seen.status == "stopped")

    await until(off, 60, "the guard")
    (seen,) = await asyncio.to_thread(rented.site.account.list_all, INSTALLATION)
    assert (seen.status, seen.raw_status) == ("stopped", "off")  # off, and still billed: only a delete ends that
    assert rented.site.account.traits.stopped_is_billed

    # Powered on again by a person: the guard is armed again, and says why it acted.
    await rented.connections.close()
    await asyncio.to_thread(rented.machines.start, rented.under)
    rented.connections = Connections(rented.pins, Path(rented.address.identity_file))

    async def again() -> bool:
        try:
            return "active" in await rented.run("systemctl is-active dj-guard.timer")
        except (Unreachable, AssertionError):
            return False

    await until(again, 60, "the machine after its reboot")
    assert "no word for" in await rented.run(f"cat {userdata.WHY}")
    await until(off, 60, "the guard once more")


async def _older(age: Callable[[], Awaitable[int]], than: int) -> bool:
    return await age() >= than
