"""What a job runs, made from the rows of its attempt, run and instance: a pure function of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Row

from ..machines.base import Archive, JobSpec
from ..machines.local import clean_environment
from ..models.configurations import run_configuration
from .provisioning import seconds

STOP_DURATION = 300
"""Seconds that a job has to end after a stop, dstack's default."""


def job_spec(code_path: Callable[[str], Path], attempt: Row[Any], run: Row[Any], instance: Row[Any]) -> JobSpec:
    """``code_path`` gives the file of an uploaded archive."""
    task = run_configuration(run.configuration)
    env = {name: value for name, value in task.env.items() if value is not None}
    gpus = [int(number) for number in instance.data.get("gpus", [])]
    ours = {
        "DSTACK_RUN_ID": run.id,
        "DSTACK_RUN_NAME": run.name,
        "DSTACK_JOB_ID": attempt.job_id,
        "DSTACK_NODE_RANK": "0",
        "DSTACK_NODES_NUM": "1",
        "DSTACK_NODES_IPS": "127.0.0.1",
        "DSTACK_MASTER_NODE_IP": "127.0.0.1",
        "DSTACK_GPUS_PER_NODE": str(len(gpus)),
        "DSTACK_GPUS_NUM": str(len(gpus)),
    }
    hardware = gpu_environment(instance.offer.get("gpu_vendor", ""), gpus)
    return JobSpec(
        attempt_id=attempt.id,
        commands=task.script,
        env={**clean_environment(run.context.get("python", "")), **hardware, **env, **ours},
        shell=task.shell or "/bin/bash",
        working_dir=task.working_dir or "",
        archives=[Archive(code_path(ref["sha256"]), ref["path"]) for ref in run.code],
        max_duration=seconds(task.max_duration),
        stop_duration=seconds(task.stop_duration, STOP_DURATION),
    )


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
