"""The Docker launcher: the supervisor of a job folder, inside a container that has the folder mounted.

The container's name is the attempt's, so a second launch finds the first. Everything that a job says and how it ended is in
its folder, as with a process; Docker is asked only to start, to signal, and when a supervisor is gone without a word.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ...models.errors import ConfigurationError, Unreachable
from ..base import Container, JobSpec, Phase, Preparing
from ..ssh.facts import Hello
from .api import Docker, DockerError

if TYPE_CHECKING:
    from ..ssh.host import Host

FOLDER = "/run/dj"
"""Where a container sees its job folder."""
WORK = "/workflow"
"""Its working folder, as in dstack."""
LABEL = "dj-installation"
ARCHITECTURES = {"amd64": "x86", "386": "x86", "arm64": "arm", "arm": "arm"}
"""Docker's word for what an image is for → a host's (``HostFacts.arch``)."""
AMD_DEVICES = ("/dev/kfd", "/dev/dri")


def name_of(attempt_id: str) -> str:
    return f"dj-{attempt_id}"


class DockerLauncher:
    """``progress`` says what a launch does at the moment, by attempt."""

    def __init__(self, host: Host, installation: str) -> None:
        self._host = host
        self._installation = installation
        self.progress: dict[str, Preparing] = {}

    @asynccontextmanager
    async def _docker(self, hello: Hello) -> AsyncIterator[Docker]:
        session = await self._host.session()
        docker = Docker(session.connection, hello.docker_socket)
        try:
            yield docker
        finally:
            await docker.close()

    async def prepared(self, spec: JobSpec, hello: Hello) -> JobSpec:
        """Have the image there; the job with what the image says filled in. Raises ConfigurationError, Unreachable."""
        container = spec.container
        assert container is not None
        async with self._docker(hello) as docker:
            try:
                image = await self._image(docker, spec.attempt_id, container)
            except DockerError as error:
                raise ConfigurationError(f"image {container.image}: {_meaning(error, container)}") from None
            finally:
                self.progress.pop(spec.attempt_id, None)
        words = shlex.split(container.entrypoint)
        if words:
            words += spec.commands  # as in dstack and Docker: its arguments, no shell
        elif not spec.commands:
            config = image.get("Config") or {}
            words = [*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])]
            spec = replace(spec, working_dir=spec.working_dir or config.get("WorkingDir") or "/")
            if not words:
                raise ConfigurationError(f"image {container.image} says nothing to run", hint="give commands")
        extra = {"image": container.image + "\n"}
        if words:
            spec = replace(spec, argv=tuple(words))
        return replace(spec, files={**spec.files, **extra})

    async def _image(self, docker: Docker, attempt_id: str, container: Container) -> dict[str, Any]:
        path = f"/images/{quote(container.image, safe='/:@')}/json"
        try:
            details: dict[str, Any] = await docker.call("GET", path)
            return details
        except DockerError as error:
            if error.http_status != 404:
                raise
        self.progress[attempt_id] = Preparing(Phase.PULLING, f"pulling {container.image}")
        layers: dict[str, tuple[int, int]] = {}
        async for line in docker.pull(container.image, container.username, container.password):
            detail = line.get("progressDetail") or {}
            if line.get("status") == "Downloading" and detail.get("total"):
                layers[str(line.get("id"))] = (int(detail.get("current", 0)), int(detail["total"]))
                done, total = (sum(each) for each in zip(*layers.values(), strict=True))
                text = f"pulling {container.image}: {done / 2**20:.0f} of {total / 2**20:.0f} MiB"
                self.progress[attempt_id] = Preparing(Phase.PULLING, text)
            elif line.get("status") == "Extracting":
                self.progress[attempt_id] = Preparing(Phase.UNPACKING, f"unpacking {container.image}")
            self._host.tell(attempt_id)
        pulled: dict[str, Any] = await docker.call("GET", path)
        return pulled

    async def start(self, spec: JobSpec, hello: Hello) -> None:
        """Create and start the container; one that is there already stays. Raises ConfigurationError, Unreachable."""
        container = spec.container
        assert container is not None
        folder = f"{hello.root}/jobs/{spec.attempt_id}"
        name = name_of(spec.attempt_id)
        async with self._docker(hello) as docker:
            try:
                try:
                    body = create_body(spec, container, folder, self._installation)
                    await docker.call("POST", f"/containers/create?name={name}", body)
                except DockerError as error:
                    if error.http_status != 409:
                        raise
                await docker.call("POST", f"/containers/{name}/start")
                state = (await docker.call("GET", f"/containers/{name}/json"))["State"]
            except DockerError as error:
                raise ConfigurationError(f"the container could not be started: {_meaning(error, container)}") from None
        await self._note_pid(spec.attempt_id, int(state.get("Pid") or 0))

    async def _note_pid(self, attempt_id: str, pid: int) -> None:
        """Say on the host which of its processes the container's supervisor is: inside, its number is another."""
        if pid:
            await self._host.ask(f"pid {attempt_id} {pid}")

    async def _inspect(self, attempt_id: str, hello: Hello) -> dict[str, Any] | None:
        if not hello.docker_socket:
            return None
        async with self._docker(hello) as docker:
            try:
                details: dict[str, Any] = await docker.call("GET", f"/containers/{name_of(attempt_id)}/json")
                return details
            except DockerError as error:
                if error.http_status == 404:
                    return None
                raise Unreachable(f"Docker answers with a fault: {error.message}") from None

    async def lost(self, attempt_id: str, hello: Hello) -> str | None:
        """Why a job without a living supervisor is lost; None if its container runs after all, '' if it never had one."""
        details = await self._inspect(attempt_id, hello)
        if details is None:
            image, _ = await self._host.ask(f"image {attempt_id}")
            return "somebody removed the job's container while the job ran" if image else ""
        state = details["State"]
        if state.get("Running"):
            await self._note_pid(attempt_id, int(state.get("Pid") or 0))
            return None
        if state.get("Status") == "created":
            return None
        code = state.get("ExitCode")
        if state.get("OOMKilled"):
            return f"the container ran out of memory and was killed (exit code {code})"
        return f"the container was ended from outside (exit code {code}{'; ' + state['Error'] if state.get('Error') else ''})"

    async def stillborn(self, attempt_id: str, hello: Hello) -> str:
        """Why a container that was started never came to its job; '' while it may, and where there is none."""
        details = await self._inspect(attempt_id, hello)
        if details is None or details["State"].get("Status") not in ("exited", "dead"):
            return ""
        state, image = details["State"], {}
        async with self._docker(hello) as docker:
            with contextlib.suppress(DockerError):
                image = await docker.call("GET", f"/images/{details['Image']}/json")
        made_for = image.get("Architecture") or ""
        if made_for and ARCHITECTURES.get(made_for, made_for) != hello.facts.arch:
            return f"image {details['Config']['Image']} is for {made_for}, and the host is {hello.facts.arch}"
        why = state.get("Error") or "the image needs a /bin/sh that runs"
        return f"the container ended before the job began (exit code {state.get('ExitCode')}): {why}"

    async def signal(self, attempt_id: str, number: str, hello: Hello) -> bool:
        """Signal the supervisor of a running container; False where there is none."""
        details = await self._inspect(attempt_id, hello)
        if details is None or not details["State"].get("Running"):
            return False
        async with self._docker(hello) as docker:
            try:
                await docker.call("POST", f"/containers/{name_of(attempt_id)}/kill?signal={number}")
            except DockerError:
                return False  # it has ended meanwhile
        return True

    async def ports(self, attempt_id: str, hello: Hello) -> dict[int, int]:
        details = await self._inspect(attempt_id, hello)
        published = ((details or {}).get("NetworkSettings") or {}).get("Ports") or {}
        return {int(inner.partition("/")[0]): int(outer[0]["HostPort"]) for inner, outer in published.items() if outer}

    async def remove(self, attempt_id: str, hello: Hello) -> None:
        """Delete an ended container; one that is gone is fine."""
        if not hello.docker_socket:
            return
        async with self._docker(hello) as docker:
            try:
                await docker.call("DELETE", f"/containers/{name_of(attempt_id)}?force=1&v=1")
            except DockerError as error:
                if error.http_status not in (404, 409):
                    raise Unreachable(f"Docker does not remove a container: {error.message}") from None

    async def delete_folder(self, attempt_id: str, hello: Hello) -> None:
        """Delete a job folder that holds files of a container's user, who may be anybody: from inside a container."""
        folder = f"{hello.root}/jobs/{attempt_id}"
        line, _ = await self._host.ask(f"image {attempt_id}")
        if not hello.docker_socket or not line:
            return
        body = {
            "Image": line,
            "User": "0",
            "Entrypoint": ["/bin/sh", "-c", f"rm -rf {FOLDER}/* {FOLDER}/.[!.]*"],
            "HostConfig": {"Binds": [f"{folder}:{FOLDER}"], "NetworkMode": "none"},
        }
        name = f"{name_of(attempt_id)}-rm"
        async with self._docker(hello) as docker:
            try:
                await docker.call("POST", f"/containers/create?name={name}", body)
                await docker.call("POST", f"/containers/{name}/start")
                await docker.call("POST", f"/containers/{name}/wait", timeout=300)
                await docker.call("DELETE", f"/containers/{name}?force=1")
            except DockerError as error:
                raise Unreachable(f"a job folder could not be deleted: {error.message}") from None
        await self._host.ask(f"remove {attempt_id}")


def create_body(spec: JobSpec, container: Container, folder: str, installation: str) -> dict[str, Any]:
    """The body of ``POST /containers/create``."""
    binds = [f"{folder}:{FOLDER}", f"{folder}/work:{WORK}"]
    binds += [f"{source}:{path}" for source, path in container.volumes]
    host: dict[str, Any] = {
        "Binds": binds,
        "NetworkMode": "host" if container.host_network else "bridge",
        "Privileged": container.privileged,
        # What the job says is in its folder; Docker keeping it too would fill the disk twice.
        "LogConfig": {"Type": "none"},
    }
    if container.hosts:
        host["ExtraHosts"] = [f"{name}:{address}" for name, address in container.hosts]
    if container.shm_size:
        host["ShmSize"] = container.shm_size
    if container.cpus:
        host["NanoCpus"] = int(container.cpus * 1e9)
    if container.memory:
        host["Memory"] = container.memory
    if container.ports and not container.host_network:
        host["PortBindings"] = {f"{port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}] for port in container.ports}
    gpu_env = _gpus(host, container)
    limits = [str(spec.log_limit), str(spec.max_duration), str(spec.stop_duration)]
    return {
        "Image": container.image,
        "User": container.user,
        "Entrypoint": ["/bin/sh", f"{FOLDER}/job.sh", FOLDER, *limits],
        "Cmd": [],
        "WorkingDir": FOLDER,
        "Env": ["DJ_INSIDE=1", *gpu_env],
        "Labels": {LABEL: installation, "dj-attempt": spec.attempt_id},
        "ExposedPorts": {f"{port}/tcp": {} for port in container.ports},
        "HostConfig": host,
    }


def _gpus(host: dict[str, Any], container: Container) -> list[str]:
    """Give the container its GPUs and no others; returns what its environment must say."""
    numbers = [str(number) for number in container.gpus]
    match container.gpu_vendor if numbers else "":
        case "nvidia":
            host["DeviceRequests"] = [{"Driver": "nvidia", "DeviceIDs": numbers, "Capabilities": [["gpu"]]}]
            return []
        case "amd":
            host["Devices"] = [_device(path) for path in AMD_DEVICES]
            host["GroupAdd"] = ["video"]
            host["SecurityOpt"] = ["seccomp=unconfined"]
            return [f"HIP_VISIBLE_DEVICES={','.join(numbers)}", f"ROCR_VISIBLE_DEVICES={','.join(numbers)}"]
        case "intel":
            host["Runtime"] = "habana"
            host["CapAdd"] = ["SYS_NICE"]
            return [f"HABANA_VISIBLE_DEVICES={','.join(numbers)}"]
        case "tenstorrent":
            host["Devices"] = [_device(f"/dev/tenstorrent/{number}") for number in numbers]
            host["Binds"].append("/dev/hugepages-1G:/dev/hugepages-1G")
            return []
        case _:
            return ["NVIDIA_VISIBLE_DEVICES=void"]


def _device(path: str) -> dict[str, str]:
    return {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rwm"}


def _meaning(error: DockerError, container: Container) -> str:
    """Docker's refusal with what to do about it."""
    text = error.message.strip()
    low = text.lower()
    if "no basic auth" in low or "unauthorized" in low or "denied" in low or "authentication required" in low:
        return f"{text}; " + (
            "the registry refuses registry_auth" if container.username else "the registry may need registry_auth"
        )
    if "manifest unknown" in low or ("not found" in low and "driver" not in low):
        return f"{text}; there is no such image: check its name and tag"
    if "could not select device driver" in low:
        return f"{text}; the NVIDIA container toolkit is missing on the host"
    if "exec:" in low or "no such file" in low:
        return f"{text}; the image needs /bin/sh"
    return text
