"""What a job runs, made from the rows of its attempt, run and instance: a pure function of them, and of our keys."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ...machines.base import Archive, Container, JobSpec
from ...machines.local import clean_environment
from ...machines.shells import quote
from ...models.configurations import AnyRun
from ..keys.ssh_keys import Keys
from ..provisioning.offers import seconds
from ..provisioning.placement import needs_container
from ..store.rows import AttemptRow, InstanceRow, RunRow
from .job_ssh import PORT, Node, prepare_script, ssh_files
from .nodes import Siblings

STOP_DURATION = 300
"""Seconds that a job has to end after a stop, dstack's default."""
DEFAULT_IMAGE = "dstackai/base:0.11-base-ubuntu22.04"
"""The image of runs without one, on hosts with Docker: the seed era's of dstack."""
ENV_IMAGE = "DSTACK_JUPYTER_DEFAULT_IMAGE"
"""Names another image; empty: such runs are processes."""
GB = 1024**3


class JobMaker:
    """``code_path`` gives the file of an uploaded archive."""

    def __init__(self, code_path: Callable[[str], Path], keys: Keys) -> None:
        self._code_path = code_path
        self._keys = keys

    def spec(self, attempt: AttemptRow, run: RunRow, instance: InstanceRow, siblings: Siblings, blocks: list[int]) -> JobSpec:
        """The job of an attempt on its booked machine; ``blocks`` are its share of a fleet's host."""
        task = run.configuration.task
        gpus = gpus_of(instance, blocks)
        nodes = [
            Node(other.job, address_of(place, len(siblings)), len(gpus_of(place, blocks) if place is not None else []))
            for other, place in siblings
        ]
        vendor = instance.offer.gpu_vendor
        env = {name: value for name, value in task.env.items() if value is not None}
        own = clean_environment(run.context.get("python", "")) if instance.backend == "local" else {}
        container = self._container(task, run, instance, gpus, blocks, nodes)
        hardware = gpu_environment(vendor, gpus) if container is None else {}
        inside = self._inside(task, run, attempt.job, nodes, container is not None) if instance.backend != "local" else {}
        prepare = prepare_script("between nodes" if len(nodes) > 1 else "into the dev environment") if inside else ""
        if os.path.isabs(python := run.context.get("python", "")) and instance.backend == "local":
            # `python` means the notebook's, also where ~/.bashrc puts another one first.
            prepare = f'export PATH={quote(os.path.dirname(python))}:"$PATH"\n'
        return JobSpec(
            attempt_id=attempt.id,
            commands=task.script,
            env={**own, **hardware, **env, **dstack_environment(run, attempt, nodes)},
            shell=task.shell or ("/bin/sh" if task.image else "/bin/bash"),
            working_dir=task.working_dir or "",
            archives=[Archive(self._code_path(ref["sha256"]), ref["path"]) for ref in run.code],
            max_duration=seconds(task.max_duration),
            stop_duration=seconds(task.stop_duration, STOP_DURATION),
            container=container,
            files=inside,
            prepare=prepare,
        )

    def _inside(self, task: AnyRun, run: RunRow, rank: int, nodes: list[Node], contained: bool) -> dict[str, str]:
        """Files for an sshd of the job's own: nodes need one, and a dev environment in a container."""
        if len(nodes) > 1 or (task.type == "dev-environment" and contained):
            return ssh_files(self._keys, run.id, run.name, rank, nodes)
        return {}

    def _container(
        self, task: AnyRun, run: RunRow, instance: InstanceRow, gpus: list[int], blocks: list[int], nodes: list[Node]
    ) -> Container | None:
        image = task.image or os.environ.get(ENV_IMAGE, DEFAULT_IMAGE)
        if instance.backend == "local" or not instance.data.docker or not (image or needs_container(task)):
            return None
        total = instance.data.blocks
        share = len(blocks) / total if total > 1 and blocks else 0.0
        ports = [port.container_port for port in task.ports] + ([PORT] if task.type == "dev-environment" else [])
        resources = task.resources
        return Container(
            image=image or DEFAULT_IMAGE,
            entrypoint=task.entrypoint or "",
            user=task.user or "",
            privileged=task.privileged,
            username=task.registry_auth.username if task.registry_auth else "",
            password=(run.registry_password or "") if task.registry_auth else "",
            shm_size=int(resources.shm_size * GB) if resources.shm_size else 0,
            cpus=(instance.offer.cpus or 0.0) * share,  # 0: no limit
            memory=int((instance.offer.memory_gb or 0.0) * share * GB),
            gpu_vendor=instance.offer.gpu_vendor,
            gpus=tuple(gpus),
            ports=tuple(dict.fromkeys(ports)),
            host_network=len(nodes) > 1,
            volumes=tuple((mount.instance_path, mount.path) for mount in task.volumes if mount.instance_path),
            hosts=tuple((f"{name}-{node.rank}", node.address) for node in nodes for name in ("node", run.name))
            if len(nodes) > 1
            else (),
        )


def gpus_of(instance: InstanceRow, blocks: list[int]) -> list[int]:
    """The GPUs of a job: by number on `local`, its blocks' share on a fleet's host, all of a cloud instance."""
    if instance.backend == "local":
        return list(instance.data.gpus)
    numbers, total = instance.offer.device_numbers, instance.data.blocks
    if instance.backend != "ssh":
        return numbers
    each = len(numbers) // total
    return [number for block in blocks for number in numbers[block * each : (block + 1) * each]]


def address_of(instance: InstanceRow | None, nodes: int) -> str:
    """The address at which other nodes reach a machine; a single node uses its loopback."""
    if nodes == 1 or instance is None:
        return "127.0.0.1"
    data = instance.data
    assert data.address is not None
    return data.internal_ip_found or data.address["hostname"]


def dstack_environment(run: RunRow, attempt: AttemptRow, nodes: list[Node]) -> dict[str, str]:
    """The variables of reference ``configuration`` §5."""
    return {
        "DSTACK_RUN_ID": run.id,
        "DSTACK_RUN_NAME": run.name,
        "DSTACK_JOB_ID": attempt.job_id,
        "DSTACK_NODE_RANK": str(attempt.job),
        "DSTACK_NODES_NUM": str(len(nodes)),
        "DSTACK_NODES_IPS": "\n".join(node.address for node in nodes),
        "DSTACK_MASTER_NODE_IP": nodes[0].address,
        "DSTACK_GPUS_PER_NODE": str(nodes[0].gpus),
        "DSTACK_GPUS_NUM": str(sum(node.gpus for node in nodes)),
    }


def gpu_environment(vendor: str, gpus: list[int]) -> dict[str, str]:
    """Variables that show a job its GPUs and no others: on a shared machine they are exclusive. None asked for: none seen.

    PCI order is what nvidia-smi counts in, and so what the claims count in; CUDA's own default may differ.
    """
    visible = ",".join(str(number) for number in gpus)
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": visible if vendor != "amd" else "",
        "HIP_VISIBLE_DEVICES": visible if vendor == "amd" else "",
    }
