"""`%dstack doctor`: each check is seen finding the real thing broken, with the remedy, and sound again where it can mend it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, insert

from dstack_jupyter.client import connect
from dstack_jupyter.doctor import environment, files, host, report
from dstack_jupyter.engine.keys.vault import FileKeys, Vault
from dstack_jupyter.engine.process.lock import Lease
from dstack_jupyter.engine.service import doctor, rotation
from dstack_jupyter.engine.store import runs, sealed
from dstack_jupyter.engine.store.columns import now
from dstack_jupyter.engine.store.database import Database
from dstack_jupyter.engine.store.schema import SEALED_TABLES, leases
from dstack_jupyter.models import endpoint
from dstack_jupyter.models.findings import Finding
from dstack_jupyter.models.fleets_view import FleetRequest
from dstack_jupyter.models.home import Home
from tests.conftest import end_engine, wait_until
from tests.security.test_vault import secret_run

CLI = [sys.executable, "-m", "dstack_jupyter"]


def bad(found: list[Finding], check: str) -> Finding:
    """The first fault of a check; every fault says how to mend it."""
    faults = [each for each in found if each["ok"] is False]
    assert all(each["hint"] for each in faults), faults
    return next(each for each in faults if each["check"] == check)


def shell(*arguments: str, **env: str) -> tuple[int, Any]:
    done = subprocess.run([*CLI, "doctor", "--json", *arguments], capture_output=True, text=True, env={**os.environ, **env})
    return done.returncode, json.loads(done.stdout)


def test_a_sound_installation(home: Home) -> None:
    code, before = shell("--no-start")
    assert code == 0
    assert {each["check"] for each in before if each["ok"] is None} == {"host", "engine"}
    assert endpoint.read(home) is None
    code, found = shell()
    assert code == 0, found
    assert {each["check"] for each in found} == {
        "home", "permissions", "disk", "python", "packages", "extension", "host", "versions", "engine", "store", "lease", "key",
        "clock", "hosts", "accounts", "work",
    }  # fmt: skip
    assert all(each["ok"] for each in found)
    assert next(each["message"] for each in found if each["check"] == "versions").endswith("on both sides")


@pytest.mark.parametrize("name", ["", "store.db", "keys", "keys/store.json", "keys/id_ed25519", "engine.log", "ssh", "jobs"])
def test_what_others_can_read(home: Home, name: str) -> None:
    client = connect(home)
    client.doctor()
    (home.keys / "id_ed25519").touch(0o600)
    (home.ssh_config.parent).mkdir(exist_ok=True)
    assert home.jobs.is_dir()
    path = home.root / name
    path.chmod(path.stat().st_mode | 0o044)
    fault = bad(files.permissions(home), "permissions")
    assert str(path) in fault["message"]
    assert "chmod" in fault["hint"]
    assert files.fix(home) == [f"chmod {0o700 if path.is_dir() else 0o600:o} {path}"]
    assert files.permissions(home)[0]["ok"]
    assert files.fix(home) == []


def test_a_config_that_others_can_read(home: Home, tmp_path: Path) -> None:
    path = tmp_path / ".dstack/server/config.yml"
    path.parent.mkdir(parents=True)
    path.write_text("projects: []\n")
    path.chmod(0o640)
    code, found = shell("--no-start")
    assert code == 1
    assert "clear text" in bad(found, "config.yml")["message"]


def test_an_engine_that_was_killed_leaves_a_file_behind(home: Home) -> None:
    pid = connect(home).info().pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not host.lock_holder(home))
    fault = bad(report.examine(home, start=False), "host")
    assert f"names the process {pid}" in fault["message"]
    assert all(each["ok"] for each in report.examine(home))  # and the next command mends it


def test_a_damaged_endpoint(home: Home) -> None:
    home.create().endpoint.write_text("{")
    assert "cannot be read" in bad(report.examine(home, start=False), "host")["message"]


def test_a_stopped_engine_is_named_at_once(home: Home) -> None:
    pid = connect(home).info().pid
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: host.stopped(pid))
        begun = time.monotonic()
        fault = bad(report.examine(home), "host")
        assert time.monotonic() - begun < 5
        assert fault["hint"] == f"kill -CONT {pid}"
    finally:
        os.kill(pid, signal.SIGCONT)


def test_an_engine_that_hangs_is_named_at_once_with_the_age_of_its_last_word(home: Home) -> None:
    """It holds the lock and is not stopped, but counts no more: its loop hangs."""
    good = [each for each in report.examine(home) if each["check"] == "host"]
    assert [each["ok"] for each in good] == [True] and re.search(r"last word \d s ago", good[0]["message"])
    end_engine(home)
    hung = Lease(home)
    assert hung.acquire()
    try:
        os.utime(home.lock, (time.time() - 130, time.time() - 130))
        begun = time.monotonic()
        fault = bad(report.examine(home), "host")
        assert time.monotonic() - begun < 5
        assert f"process {os.getpid()} gave its last word 2 min ago" in fault["message"]
        assert f"kill -9 {os.getpid()}" in fault["hint"]
        hung.beat()
        assert "last word" not in str(host.examine(home))
    finally:
        hung.release()


def test_an_endpoint_that_names_another_than_who_holds_the_lock(home: Home) -> None:
    pid = connect(home).info().pid
    written = endpoint.read(home)
    assert written is not None
    try:
        replace(written, pid=os.getpid()).write(home)
        assert f"process {pid} holds" in bad(host.examine(home), "host")["message"]
        home.endpoint.unlink()
        assert "has no endpoint.json" in bad(host.examine(home), "host")["message"]
    finally:
        written.write(home)


def test_a_socket_that_is_gone(home: Home) -> None:
    pid = connect(home).info().pid
    written = endpoint.read(home)
    assert written is not None
    os.rename(written.socket, f"{written.socket}.away")
    try:
        assert bad(host.examine(home), "host")["hint"].endswith(f"kill {pid}")
    finally:
        os.rename(f"{written.socket}.away", written.socket)


def test_an_engine_of_another_version(home: Home) -> None:
    code = (
        "import dstack_jupyter._version as v; v.__version__ = '9.9.9'\nfrom dstack_jupyter.engine.__main__ import main; main()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: endpoint.read(home) is not None)
    assert "engine 9.9.9" in bad(report.examine(home), "versions")["message"]
    end_engine(home)
    process.wait(20)


def test_a_store_whose_key_is_gone(home: Home) -> None:
    connect(home).doctor()
    end_engine(home)
    path = home.keys / "store.json"
    path.rename(home.root / "away.json")
    found = report.examine(home)
    assert str(path) in bad(found, "engine")["message"]
    assert "copy it from where the store was made" in bad(found, "engine")["hint"]
    (home.root / "away.json").rename(path)
    assert all(each["ok"] for each in report.examine(home))


def test_packages_that_are_too_old(home: Home, tmp_path: Path) -> None:
    info = tmp_path / "cronsim-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cronsim\nVersion: 0.1\n")
    code, found = shell("--no-start", PYTHONPATH=str(tmp_path))
    assert code == 1
    assert bad(found, "packages")["message"] == "cronsim 0.1, >=2.6 is needed"
    assert bad(found, "packages")["hint"] == 'pip install "cronsim>=2.6"'


def test_an_extension_that_was_disabled(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.extension()["ok"]
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(folder))
    path = folder / "jupyter_server_config.json"
    path.write_text(json.dumps({"ServerApp": {"jpserver_extensions": {"dstack_jupyter_server": False}}}))
    found = environment.extension()
    assert str(path) in bad([found], "extension")["message"]
    assert found["hint"] == "jupyter server extension enable dstack_jupyter_server"
    # Jupyter itself reads the same.
    from jupyter_core.paths import jupyter_config_path
    from jupyter_server.extension.config import ExtensionConfigManager

    assert ExtensionConfigManager(read_config_path=jupyter_config_path()).enabled("dstack_jupyter_server") is False


def test_a_home_on_a_network_disk(home: Home, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/export {home.root} nfs4 rw 0 0\n")
    fault = bad([files.place(home, mounts)], "home")
    assert "(nfs4)" in fault["message"]
    assert "DSTACK_JUPYTER_HOME" in fault["hint"]


def test_a_disk_that_is_nearly_full(home: Home) -> None:
    home.create()
    command = f"mount -t tmpfs -o size=900m none {home.root} && exec {sys.executable} -m dstack_jupyter doctor --no-start --json"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True)
    if done.returncode != 1 and "unshare" in done.stderr:
        pytest.fail(f"this machine has no user namespaces: {done.stderr}")
    assert bad(json.loads(done.stdout), "disk")["message"].startswith("0.9 GB free")


def test_hosts_that_cannot_be_reached_and_keys_that_others_can_read(home: Home, tmp_path: Path) -> None:
    key = tmp_path / "my key; touch gone"
    key.write_text("x")
    key.chmod(0o644)
    hosts = [{"hostname": "127.0.0.1", "port": 1}]
    wanted = {"type": "fleet", "name": "desk", "ssh_config": {"user": "me", "identity_file": str(key), "hosts": hosts}}
    client = connect(home)
    client.apply_fleet(FleetRequest(configuration=wanted))
    wait_until(lambda: client.fleet("desk").hosts[0].message)
    found = [each for each in client.doctor() if each["ok"] is False]
    assert any(each["message"].startswith("127.0.0.1:1: ") for each in found), found
    assert any(each["hint"] == f"chmod 600 '{key}'" for each in found), found
    client.delete_fleet("desk")


async def examined(database: Database, vault: Vault) -> list[Finding]:
    return await doctor.examine(database, vault, Home.default(), [])


async def test_the_store_its_key_its_lease_and_its_clock(tmp_path: Path) -> None:
    vault = Vault(FileKeys.of(Home(tmp_path)))
    database = Database(tmp_path / "store.db", vault)
    await database.open()
    await database.write(runs.submit, secret_run())
    assert all(each["ok"] for each in await examined(database, vault))

    vault.begin_rotation(go_on=True)
    fault = bad(await examined(database, vault), "key")
    assert "3 values have an older key" in fault["message"]
    assert "--rotate-key" in fault["hint"]
    await rotation.rotate(database, vault)
    assert all(each["ok"] for each in await examined(database, vault))

    keys = FileKeys.of(Home(tmp_path))
    keys.replace([replace(key, made=time.time() - 400 * 86400) for key in keys.load()])
    assert "older than a year" in bad(await examined(database, vault), "key")["message"]
    await rotation.rotate(database, vault)
    assert await database.read(sealed.count_foreign, SEALED_TABLES, vault.sealing) == 0

    def let_run_out(connection: Connection) -> None:
        connection.execute(insert(leases).values(resource="f" * 16, owner="gone", token=1, expires_at=now() - 60))

    await database.write(let_run_out)
    assert "ran out" in bad(await examined(database, vault), "lease")["message"]

    assert database._engine is not None

    @event.listens_for(database._engine, "begin")
    def shift(connection: Connection) -> None:
        # The database's clock goes an hour ahead: its own function answers so.
        moment = 2440587.5 + (time.time() + 3600) / 86400
        connection.connection.driver_connection.create_function("julianday", 1, lambda _: moment)  # type: ignore[union-attr]

    assert "60 min ahead of the database's" in bad(await examined(database, vault), "clock")["message"]
    await database.close()


async def test_a_damaged_store(tmp_path: Path) -> None:
    vault = Vault(FileKeys.of(Home(tmp_path)))
    database = Database(tmp_path / "store.db", vault)
    await database.open()
    for number in range(40):
        await database.write(runs.submit, secret_run(number))
    await database.close()
    path = tmp_path / "store.db"
    data = bytearray(path.read_bytes())
    data[-8192:-6000] = os.urandom(2192)
    path.write_bytes(data)
    again = Database(path, vault)
    await again.open()
    assert "integrity" in bad(await examined(again, vault), "store")["message"]
    await again.close()
