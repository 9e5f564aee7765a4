"""User-data: held to cloud-init's own schema by cloud-init itself, whatever people are called; its scripts on real files."""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dstack_jupyter.engine.keys.ssh_keys import _pair
from dstack_jupyter.machines import userdata
from dstack_jupyter.machines.userdata import Recipe, script, silence_of, user_data
from dstack_jupyter.models.errors import ConfigurationError
from tests.hosts.fixtures import need

HOST, LOGIN = _pair(b"h" * 32), _pair(b"l" * 32)
TOP = {
    "bootcmd", "ssh_deletekeys", "ssh_keys", "ssh_pwauth", "ssh", "disable_root", "ssh_authorized_keys", "write_files", "runcmd",
}  # fmt: skip
SYSTEM_PYTHON = "/usr/bin/python3"

# Debian's cloud-init looks at documents one after another, each a line of JSON; it answers with a line each.
VALIDATOR = """
import json, logging, sys, warnings
warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
from cloudinit import util
from cloudinit.config.schema import SchemaValidationError, get_schema, validate_cloudconfig_schema
schema = get_schema()
for line in sys.stdin:
    text = json.loads(line)
    try:
        assert text.startswith("#cloud-config\\n")
        config = util.load_yaml(text)
        validate_cloudconfig_schema(config, schema, strict=True)
        print(json.dumps({"config": config}), flush=True)
    except (SchemaValidationError, AssertionError) as error:
        print(json.dumps({"fault": str(error) or "no cloud-config"}), flush=True)
"""
Validate = Callable[[str], dict[str, Any]]


def recipe(**more: Any) -> Recipe:
    return Recipe(HOST.private, HOST.public, (LOGIN.public,), **more)


@pytest.fixture(scope="session")
def validate() -> Iterator[Validate]:
    """What cloud-init itself says of a document: {config} as it reads it, or {fault}."""
    command = [SYSTEM_PYTHON, "-c", "import cloudinit"]
    there = Path(SYSTEM_PYTHON).exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0
    need(*([] if there else ["cloud-init"]))
    with subprocess.Popen([SYSTEM_PYTHON, "-c", VALIDATOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None

        def ask(text: str) -> dict[str, Any]:
            process.stdin.write(json.dumps(text) + "\n")
            process.stdin.flush()
            return dict(json.loads(process.stdout.readline()))

        yield ask
        process.stdin.close()


def test_cloud_inits_own_schema_takes_it(validate: Validate) -> None:
    said = validate(user_data(recipe(labels={"project": "main"})))
    assert set(said["config"]) == TOP
    assert said["config"]["ssh_keys"] == {"ed25519_private": HOST.private, "ed25519_public": HOST.public}


def test_the_validator_can_say_no(validate: Validate) -> None:
    good = user_data(recipe())
    assert "fault" in validate(good.replace("ssh_pwauth: false", "ssh_genkeytypes: []"))
    assert "fault" in validate(good.replace("bootcmd:", "bootcmd: 7\nmore:"))
    assert "fault" in validate(good.removeprefix("#"))


ANY = st.text(st.characters(codec=None), max_size=60)


@settings(max_examples=150, deadline=None)
@given(labels=st.dictionaries(ANY, ANY, max_size=4), silence=st.integers(0, 10**9), age=st.integers(0, 10**9))
def test_no_text_becomes_a_key_or_a_command(validate: Validate, labels: Mapping[str, str], silence: int, age: int) -> None:
    text = user_data(recipe(labels=labels, silence=silence, age=age))
    said = validate(text)
    assert set(said["config"]) == TOP
    assert said["config"] == yaml.safe_load(text)  # cloud-init reads what we wrote
    files = {each["path"]: gzip.decompress(base64.b64decode(each["content"])) for each in said["config"]["write_files"]}
    assert json.loads(files[f"{userdata.STATE}/instance.json"].decode("utf-8", "surrogatepass")) == labels
    assert len(text.encode()) < 16 * 1024  # what the least of the vendors takes
    assert text == user_data(recipe(labels=labels, silence=silence, age=age))
    # Nothing that people named is in a command.
    plain = user_data(recipe(silence=silence, age=age))
    assert said["config"]["bootcmd"] == yaml.safe_load(plain)["bootcmd"]


@given(ANY)
def test_a_key_or_a_name_that_is_none_is_refused(text: str) -> None:
    if not userdata.USER.fullmatch(text):
        with pytest.raises(ConfigurationError):
            user_data(recipe(user=text))
    for key in (text, f"{LOGIN.public}\n{text}", f"{LOGIN.public} {text}", f'command="{text}" {LOGIN.public}'):
        with pytest.raises(ConfigurationError):
            user_data(Recipe(HOST.private, HOST.public, (key,)))
        with pytest.raises(ConfigurationError):
            user_data(Recipe(HOST.private, key, (LOGIN.public,)))


def test_the_guard_is_armed_before_anything_else_and_not_where_it_is_off() -> None:
    config = yaml.safe_load(user_data(recipe(silence=silence_of(3600), age=7200)))
    assert next(iter(config)) == "bootcmd"
    (command,) = config["bootcmd"]
    assert command[:2] == ["sh", "-c"]
    started = command[2].index("systemctl start --no-block dj-guard.timer")
    assert command[2].index("systemctl enable dj-guard.timer") < started < command[2].index("firewall.sh")
    assert "echo '3600 7200'" in command[2]
    assert "dj-guard" not in user_data(recipe(silence=silence_of(None)))
    assert (silence_of(0), silence_of(300), silence_of(7200), silence_of(None)) == (1800, 1800, 7200, 0)


def test_nothing_in_it_is_a_secret_of_ours() -> None:
    """F62 skypilot#489."""
    text = user_data(recipe())
    assert LOGIN.private.splitlines()[2] not in text
    assert text.count("PRIVATE KEY") == 2  # the machine's own host key, renewed on first contact


# The guard, on files instead of a machine: its clock, its processes and its end are arguments.


class Guarded:
    """A machine for guard.sh: an uptime that tests set, jobs that are folders."""

    def __init__(self, root: Path, shell: list[str]) -> None:
        self.root = root
        self.shell = shell
        self.kept, self.seen, self.ended = root / "kept", root / "run" / "guard", root / "ended"
        self.kept.mkdir()
        self.uptime = 10
        self.boot = "boot-1"
        for name in ("proc/sys/kernel/random", "run", "home/ada/.dstack_jupyter/jobs"):
            (root / name).mkdir(parents=True)
        self.limits(1800, 0)

    def limits(self, silence: int, age: int) -> None:
        (self.kept / "limits").write_text(f"{silence} {age}\n")

    def look(self, after: int = 60) -> str:
        """The guard looks ``after`` seconds of uptime later. '' or why it ended the machine."""
        self.uptime += after
        (self.root / "proc/uptime").write_text(f"{self.uptime}.37 1.00\n")
        (self.root / "proc/sys/kernel/random/boot_id").write_text(f"{self.boot}\n")
        env = {
            "PATH": os.environ["PATH"], "DJ_KEPT": str(self.kept), "DJ_SEEN": str(self.seen), "DJ_PROC": str(self.root / "proc"),
            "DJ_HOMES": f"{self.root}/home/*", "DJ_END": f"touch {self.ended}",
        }  # fmt: skip
        subprocess.run([*self.shell, "-c", script("guard.sh")], env=env, check=True, timeout=20, capture_output=True)
        return (self.kept / "why").read_text() if self.ended.exists() else ""

    def reboot(self) -> None:
        shutil.rmtree(self.root / "run")
        (self.root / "run").mkdir()
        self.uptime, self.boot = 0, self.boot + "+"

    def word(self) -> None:
        """The engine says something."""
        (self.kept / "alive").touch()
        moment = time.time_ns() + self.uptime * 10**9  # never the same twice
        os.utime(self.kept / "alive", ns=(moment, moment))

    def job(
        self, name: str, *, pid: str | None = "77", boot: str | None = None, start: str = "12345", ended: bool = False
    ) -> Path:
        folder = self.root / "home/ada/.dstack_jupyter/jobs" / name
        (folder / "started").mkdir(parents=True)
        if pid is not None:
            (folder / "pid").write_text(f"{pid} {start} {boot or self.boot}\n")
        if ended:
            (folder / "exit").write_text("0 -\n")
        return folder

    def process(self, pid: str = "77", start: str = "12345") -> None:
        """A process as the kernel tells it; its name is made to confuse."""
        (self.root / "proc" / pid).mkdir()
        fields = ["S", *["0"] * 18, start, "0"]
        (self.root / "proc" / pid / "stat").write_text(f"{pid} (sh) a ) b) {' '.join(fields)}\n")


@pytest.fixture(
    params=[shell for shell in ("/bin/dash", "/bin/bash --posix", "/bin/busybox sh") if Path(shell.split()[0]).exists()]
)
def guarded(tmp_path: Path, request: pytest.FixtureRequest) -> Guarded:
    return Guarded(tmp_path, request.param.split())


def looks(machine: Guarded, seconds: int) -> str:
    """Looks each 300 s for so long, or until it ends."""
    for _ in range(seconds // 300):
        if said := machine.look(300):
            return said
    return ""


def test_silence_ends_the_machine_and_not_before(guarded: Guarded) -> None:
    assert looks(guarded, 1500) == ""
    assert "no word for" in looks(guarded, 600)


def test_a_word_starts_the_silence_anew(guarded: Guarded) -> None:
    for _ in range(5):
        assert looks(guarded, 1500) == ""
        guarded.word()
        assert guarded.look(60) == ""
    assert "no word" in looks(guarded, 2100)


def test_a_job_under_way_keeps_it_and_its_end_gives_the_whole_silence(guarded: Guarded) -> None:
    job = guarded.job("a1")
    guarded.process()
    assert looks(guarded, 6_000) == ""
    (job / "exit").write_text("0 -\n")
    assert looks(guarded, 1500) == ""
    assert "no word" in looks(guarded, 600)


@pytest.mark.parametrize("left", ["ended", "supervisor is gone", "another process has its number", "from before the reboot"])
def test_what_a_job_left_behind_keeps_nothing(guarded: Guarded, left: str) -> None:
    guarded.job(
        "a1", ended=left == "ended", start="999" if left.startswith("another") else "12345",
        boot="boot-0" if left.startswith("from") else None,
    )  # fmt: skip
    if left != "supervisor is gone":
        guarded.process()
    assert "no word" in looks(guarded, 2400)


def test_a_container_whose_number_nobody_noted_counts_until_the_next_boot(guarded: Guarded) -> None:
    guarded.look()
    job = guarded.job("a1", pid=None)
    later = time.time() + 100
    os.utime(job / "started", (later, later))
    assert looks(guarded, 7200) == ""
    os.utime(job / "started", (1e9, 1e9))
    assert "no word" in looks(guarded, 2400)


def test_past_its_age_it_ends_whatever_runs(guarded: Guarded) -> None:
    guarded.limits(1800, 7200)
    guarded.job("a1")
    guarded.process()
    for _ in range(22):
        guarded.word()
        assert guarded.look(300) == ""
    guarded.reboot()
    guarded.word()
    said = looks(guarded, 1200)  # all boots count
    assert "it has run for" in said and "its limit is 7200 s" in said


def test_one_that_is_started_again_past_its_age_has_half_an_hour(guarded: Guarded) -> None:
    """For an engine that comes late to read what a job left on it."""
    guarded.limits(1800, 7200)
    guarded.job("a1")
    guarded.process()
    assert "it has run for" in looks(guarded, 9_000)
    guarded.ended.unlink()
    guarded.reboot()
    for _ in range(5):
        guarded.word()
        assert guarded.look(300) == ""
    assert "it has run for" in looks(guarded, 900)


def test_a_clock_that_jumps_ends_nothing(guarded: Guarded) -> None:
    """At first boot clocks jump by years; only the uptime counts."""
    guarded.word()
    os.utime(guarded.kept / "alive", (4e9, 4e9))
    assert looks(guarded, 1500) == ""
    os.utime(guarded.kept / "alive", (1e9, 1e9))  # any change is a word
    assert looks(guarded, 1500) == ""
    assert "no word" in looks(guarded, 900)


def test_limits_that_the_engine_changes_hold_from_then_on(guarded: Guarded) -> None:
    assert looks(guarded, 1500) == ""
    guarded.limits(0, 0)
    assert looks(guarded, 6_000) == ""
    guarded.limits(60_000, 0)
    assert guarded.look() == ""


@pytest.mark.parametrize("text", ["", "nonsense here\n", "-5 x\n", "1800"])
def test_limits_that_make_no_sense_end_nothing_at_once(guarded: Guarded, text: str) -> None:
    (guarded.kept / "limits").write_text(text)
    assert guarded.look() == ""


# What the image lacks: prepare.sh with the tools of an image on its PATH.


def prepare(root: Path, tools: Mapping[str, str], *, nvidia: bool = False) -> tuple[int, str, str]:
    """(exit code, what it told, what it called). ``tools`` are scripts; only they and coreutils are there."""
    bin, calls = root / "bin", root / "calls"
    for folder in (bin, root / "etc/docker", root / "dev", root / "state"):
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("mkdir", "mv", "rm", "cat", "awk", "sleep", "sh", "echo", "touch", "cp", "chmod", "ln"):
        target = shutil.which(name)
        assert target is not None
        (bin / name).symlink_to(target)
    (bin / "python3").symlink_to(sys.executable)
    for name, text in tools.items():
        (bin / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{calls}\n{text}\n')
        (bin / name).chmod(0o755)
    if nvidia:
        (root / "dev/nvidiactl").touch()
    body = script("prepare.sh").replace("PATH=$PATH:/usr/sbin:/sbin", "")
    env = {"PATH": str(bin), "DJ_STATE": str(root / "state"), "DJ_SYSTEM": str(root), "DJ_NAP": "0", "BIN": str(bin)}
    done = subprocess.run(["/bin/sh", "-c", body], env=env, timeout=30, capture_output=True, text=True)
    told = (root / "state/prepared").read_text().strip()
    return done.returncode, told, calls.read_text() if calls.exists() else ""


INSTALLS_DOCKER = 'case "$*" in *docker.io*) cp "$BIN/true" "$BIN/dockerd";; *toolkit*) cp "$BIN/ctk" "$BIN/nvidia-ctk";; esac'
FINGERPRINT = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
CTK = 'case "$*" in *configure*) echo \'{"runtimes": {"nvidia": {}}, "exec-opts": ["native.cgroupdriver=systemd"]}\' >%s;; esac'


def test_an_image_with_docker_gets_nothing_installed(tmp_path: Path) -> None:
    code, told, calls = prepare(tmp_path, {"dockerd": "", "systemctl": "", "apt-get": ""})
    assert (code, told) == (0, "ok")
    assert "apt-get" not in calls


def test_docker_comes_where_the_image_lacks_it(tmp_path: Path) -> None:
    code, told, calls = prepare(tmp_path, {"true": "", "systemctl": "", "apt-get": INSTALLS_DOCKER})
    assert (code, told) == (0, "ok")
    assert "--no-install-recommends docker.io" in calls


def test_what_cannot_be_installed_is_told_after_three_tries(tmp_path: Path) -> None:
    code, told, calls = prepare(tmp_path, {"systemctl": "", "apt-get": "exit 100"})
    assert code == 1
    assert told == "failed: Docker could not be installed; use an image that has it"
    assert calls.count("apt-get -o DPkg::Lock::Timeout=300 update") == 6  # docker.io, then docker


def nvidia_tools(root: Path, fingerprint: str) -> dict[str, str]:
    settings = root / "etc/docker/daemon.json"
    return {
        "dockerd": "", "systemctl": "", "true": "", "apt-get": INSTALLS_DOCKER, "dpkg": "echo amd64",
        "curl": 'while [ "$1" != -o ]; do shift; done; echo key >"$2"', "gpg": f"echo fpr:::::::::{fingerprint}:",
        "ctk": CTK % settings,
    }  # fmt: skip


def test_the_nvidia_toolkit_comes_with_a_key_that_we_know(tmp_path: Path) -> None:
    code, told, calls = prepare(tmp_path, nvidia_tools(tmp_path, FINGERPRINT), nvidia=True)
    assert (code, told) == (0, "ok")
    listed = (tmp_path / "etc/apt/sources.list.d/dstack-jupyter-nvidia.list").read_text()
    assert listed.startswith("deb [signed-by=") and "amd64" in listed
    settings = json.loads((tmp_path / "etc/docker/daemon.json").read_text())
    assert settings == {"runtimes": {"nvidia": {}}, "exec-opts": ["native.cgroupdriver=cgroupfs"]}
    assert "systemctl restart docker" in calls


def test_packages_of_nvidia_under_another_key_are_not_installed(tmp_path: Path) -> None:
    code, told, calls = prepare(tmp_path, nvidia_tools(tmp_path, "0" * 40), nvidia=True)
    assert code == 1
    assert told.startswith("failed: the key of NVIDIA's packages is not the one that we know")
    assert "nvidia-container-toolkit" not in calls
