"""What a host says of itself: the answer of hello.sh, parsed. Pure functions of text."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ...models.errors import Unreachable
from ..facts import HostFacts
from ..gpu_tools import GB, TOOLS, GPUFacts, read_tool

TIMED_OUT = 124
"""The exit code of coreutils' timeout."""


@cache
def script(name: str) -> str:
    """The text of a script beside this module; it travels as an argument."""
    return Path(__file__).with_name(name).read_text()


@dataclass(frozen=True, slots=True)
class Hello:
    """``boot`` changes when the host boots. ``problems`` are what keeps a host from working, one sentence each."""

    root: str
    home: str
    user: str
    path: str
    boot: str
    hostname: str
    facts: HostFacts
    docker_socket: str = ""
    docker_problem: str = ""
    naps: bool = False
    dd: bool = False
    sshd: str = ""
    nvidia_toolkit: bool = False
    addresses: tuple[str, ...] = ()
    time: float = 0.0
    """Seconds since the epoch by the host's clock when it answered; 0 if it did not say."""
    clock_ahead: float = 0.0
    """Seconds that its clock is ahead of ours, as far as whole seconds and the way can tell."""
    problems: tuple[str, ...] = field(default=())


def parse_hello(text: str) -> Hello:
    """Raises Unreachable where the answer is not one of hello.sh: a host that greets with a menu, say."""
    values: dict[str, str] = {}
    tools: dict[str, tuple[str, int]] = {}
    tool, lines = "", list[str]()
    for line in text.splitlines():
        if line.startswith("-- end ") and tool:
            code = line.removeprefix("-- end ")
            tools[tool] = ("\n".join(lines), int(code) if code.isdigit() else 1)
            tool = ""
        elif line.startswith("-- "):
            tool, lines = line.removeprefix("-- "), []
        elif tool:
            lines.append(line)
        elif "=" in line:
            name, _, value = line.partition("=")
            values[name] = value
    if not values.get("root") or not values.get("cpus", "").isdigit():
        raise Unreachable("the host does not answer like a Linux host", hint="its login shell must run `sh -c` without output")
    gpus, notes = _gpus(tools)
    size, _, free = values.get("disk_kib", "").partition(" ")
    arch = values.get("arch", "").lower()
    facts = HostFacts(
        cpus=float(values["cpus"]),
        memory_gb=round(int(values.get("memory_kib") or 0) * 1024 / GB, 1),
        disk_gb=round(int(size or 0) * 1024 / GB, 1),
        disk_free_gb=round(int(free or 0) * 1024 / GB, 1),
        arch="arm" if arch in ("aarch64", "arm64") else "x86",
        gpus=tuple(gpus),
        notes=tuple(notes),
    )
    problems = [f"{name} is missing on the host" for name in ("setsid", "tar") if values.get(name) != "1"]
    if values.get("system") != "Linux":
        problems.append(f"the host runs {values.get('system')}, Linux is needed")
    return Hello(
        root=values["root"],
        home=values.get("home", ""),
        user=values.get("user", ""),
        path=values.get("path", ""),
        boot=values.get("boot", ""),
        hostname=values.get("hostname", ""),
        facts=facts,
        docker_socket=values["docker_socket"] if values.get("docker_allowed") == "1" else "",
        docker_problem=_docker_problem(values),
        naps=values.get("naps") == "1",
        dd=values.get("dd") == "1",
        sshd=values.get("sshd", ""),
        nvidia_toolkit=values.get("nvidia_toolkit") == "1",
        time=float(values["time"]) if values.get("time", "").isdigit() else 0.0,
        addresses=tuple(values.get("addresses", "").split()),
        problems=tuple(problems),
    )


def _docker_problem(values: dict[str, str]) -> str:
    """Why containers cannot be run there, and what to do; '' if they can."""
    if values.get("docker_allowed") == "1":
        return ""
    user = values.get("user", "the user")
    who = "" if values.get("sudo") == "1" or values.get("uid") == "0" else f" ({user} has no sudo: an administrator must)"
    if "docker_socket" in values:
        return f"{user} may not use Docker: `sudo usermod -aG docker {user}`, then log in anew{who}"
    if values.get("docker_installed") == "1":
        return f"Docker is installed but does not run: `sudo systemctl start docker`{who}"
    return "Docker is not installed: jobs run as processes, without `image`"


def _gpus(tools: dict[str, tuple[str, int]]) -> tuple[list[GPUFacts], list[str]]:
    gpus: list[GPUFacts] = []
    notes: list[str] = []
    for name, (output, code) in tools.items():
        if name == "rocm-smi" and any(gpu.vendor == "amd" for gpu in gpus):
            continue
        if code == TIMED_OUT:
            notes.append(f"{name} did not answer in 10 s")
        elif name in TOOLS:
            cards, complaints = read_tool(name, output, code)
            gpus += cards
            notes += complaints
    return gpus, notes
