"""Facts of a machine from the output of vendors' tools, from control groups, and from this machine itself."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dstack_jupyter.machines import facts
from dstack_jupyter.machines.gpu_tools import (
    GPUFacts,
    devices,
    offered,
    parse_amd_smi,
    parse_hl_smi,
    parse_nvidia_smi,
    parse_rocm_smi,
    parse_tt_smi,
    read_tool,
)
from dstack_jupyter.models.gpus import near_names, short_name, sold_memory

ROCM_CARD = {  # a card as rocm-smi 6 prints it; ids shortened
    "VRAM Total Memory (B)": "21458059264",
    "VRAM Total Used Memory (B)": "27856896",
    "Card Series": "Radeon RX 7900 XT",
    "Card Model": "0x744c",
    "Card Vendor": "Advanced Micro Devices, Inc. [AMD/ATI]",
    "GFX Version": "gfx1100",
}
AMD_CARD = {
    "gpu": 0,
    "asic": {"market_name": "AMD Instinct MI300X OAM", "vendor_id": "0x1002", "num_compute_units": 304},
    "vram": {"type": "HBM3", "vendor": "HYNIX", "size": {"value": 196592, "unit": "MB"}, "bit_width": 8192},
}


@pytest.mark.parametrize(
    ("line", "name", "memory"),
    [
        ("NVIDIA A100-SXM4-80GB, 81920", "A100", 80),
        ("NVIDIA A100-SXM4-40GB, 40960", "A100", 40),
        ("NVIDIA H100 80GB HBM3, 81559", "H100", 80),
        ("NVIDIA H100 NVL, 95830", "H100NVL", 94),
        ("Tesla T4, 15360", "T4", 16),
        ("Tesla V100-SXM2-16GB, 16160", "V100", 16),
        ("NVIDIA L4, 23034", "L4", 24),
        ("NVIDIA GeForce RTX 4090, 24564", "RTX4090", 24),
        ("NVIDIA GeForce RTX 3080 Ti, 12288", "RTX3080Ti", 12),
        ("NVIDIA RTX A6000, 49140", "A6000", 48),
        ("NVIDIA RTX 6000 Ada Generation, 49140", "RTX6000Ada", 48),
        ("NVIDIA GB10, [N/A]", "GB10", 0),
        ("NVIDIA Whatever 1, 2048", "Whatever1", 2),
    ],
)
def test_nvidia_smi(line: str, name: str, memory: float) -> None:
    found = parse_nvidia_smi(f"0, {line}\n3, {line}\n")
    assert found == [GPUFacts("nvidia", name, memory, shared=memory == 0)] * 2
    assert [gpu.index for gpu in found] == [0, 3]


@pytest.mark.parametrize("text", ["", "\n", "No devices were found\n", "a, b, c\n"])
def test_nvidia_smi_without_devices(text: str) -> None:
    assert parse_nvidia_smi(text) == []


def test_rocm_smi_counts_cards_by_number_and_leaves_out_the_processors_own() -> None:
    own = {"VRAM Total Memory (B)": "67108864", "Card Series": "Raphael"}
    big = {"VRAM Total Memory (B)": "206141652992", "Card series": "AMD Instinct MI300X"}
    text = json.dumps({"card10": big, "card2": ROCM_CARD, "card1": own, "system": {"Driver version": "6.8"}})
    assert parse_rocm_smi(text) == [GPUFacts("amd", "RX7900XT", 20), GPUFacts("amd", "MI300X", 192)]


def test_amd_smi_in_both_forms() -> None:
    found = [GPUFacts("amd", "MI300X", 192)] * 2
    assert parse_amd_smi(json.dumps([AMD_CARD, AMD_CARD])) == found
    assert parse_amd_smi(json.dumps({"gpu_data": [AMD_CARD, {**AMD_CARD, "vram": {"size": "196592 MB"}}]})) == found


@pytest.mark.parametrize("parse", [parse_amd_smi, parse_rocm_smi])
@pytest.mark.parametrize("text", ["", "WARNING: no GPU", "[1]", "1", "null"])
def test_what_is_not_an_answer(parse: Callable[[str], list[GPUFacts]], text: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        parse(text)


def test_names_and_sizes() -> None:
    assert short_name("NVIDIA RTX PRO 6000 Blackwell Server Edition") == "RTXPRO6000"
    assert sold_memory("H100", 60.04) == 60.0
    assert near_names("A10O")[0] in {"A10", "A100"}
    assert "RTX4090" in near_names("rtx490")
    assert near_names("h100") == []
    assert near_names("qqqqqqqq") == []


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_limits_of_control_groups_v2(tmp_path: Path) -> None:
    membership = "0::/user.slice/session.scope\n"
    assert facts.cpu_limit(tmp_path, membership) == float("inf")
    write(tmp_path / "user.slice/session.scope/cpu.max", "max 100000\n")
    write(tmp_path / "user.slice/session.scope/memory.max", "max\n")
    write(tmp_path / "user.slice/cpu.max", "150000 100000\n")
    write(tmp_path / "user.slice/memory.max", "1073741824\n")
    write(tmp_path / "other.slice/cpu.max", "1000 100000\n")
    assert facts.cpu_limit(tmp_path, membership) == 1.5
    assert facts.memory_limit(tmp_path, membership) == 1 << 30
    # In a container the group named is not there, and the root is the container's own.
    write(tmp_path / "cpu.max", "50000 100000\n")
    assert facts.cpu_limit(tmp_path, "0::/docker/0123\n") == 0.5


def test_limits_of_control_groups_v1(tmp_path: Path) -> None:
    membership = "12:memory:/job\n3:cpu,cpuacct:/job\n1:name=systemd:/job\n"
    write(tmp_path / "cpu/job/cpu.cfs_quota_us", "200000\n")
    write(tmp_path / "cpu/job/cpu.cfs_period_us", "100000\n")
    write(tmp_path / "cpu/cpu.cfs_quota_us", "-1\n")
    write(tmp_path / "cpu/cpu.cfs_period_us", "100000\n")
    write(tmp_path / "memory/job/memory.limit_in_bytes", "4096\n")
    assert facts.cpu_limit(tmp_path, membership) == 2
    assert facts.memory_limit(tmp_path, membership) == 4096


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_tools_on_the_path_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert facts.gpus_of_tools() == ([], [])
    tool(tmp_path, "nvidia-smi", "echo '0, NVIDIA L4, 23034'")
    tool(tmp_path, "rocm-smi", f"echo '{json.dumps({'card0': ROCM_CARD})}'")
    assert facts.gpus_of_tools() == ([GPUFacts("nvidia", "L4", 24), GPUFacts("amd", "RX7900XT", 20)], [])


def test_a_tool_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool(tmp_path, "amd-smi", "exec sleep 60")
    assert facts.run_tool("amd-smi", timeout=0.2) == ("", 0, "amd-smi did not answer in 0.2 s")
    assert facts.run_tool("no-such-tool") == ("", 0, "")


def test_a_tool_that_fails_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool(tmp_path, "nvidia-smi", 'echo "couldn\'t communicate with the NVIDIA driver"; exit 9')
    tool(tmp_path, "rocm-smi", "echo no GPU")
    found = facts.local_facts(tmp_path / "not" / "made" / "yet")
    assert found.gpus == ()
    assert found.notes == (
        "nvidia-smi failed with exit code 9: couldn't communicate with the NVIDIA driver: "
        "load the driver (`sudo modprobe nvidia`), or reinstall it",
        "rocm-smi answered in a form that is not known",
    )


def test_this_machine(tmp_path: Path) -> None:
    found = facts.local_facts(tmp_path)
    assert 0 < found.cpus <= (os.cpu_count() or 1)
    assert 0.1 < found.memory_gb <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 + 0.1
    assert 0 < found.disk_free_gb <= found.disk_gb
    assert found.arch in ("x86", "arm")


def test_hl_smi_names_gaudi_by_their_boards() -> None:
    text = "0, HL-205, 32768 MiB\n1, HL-225, 98304 MiB\n2, HL-325L, 131072 MiB\n3, HL-999, N/A\n"
    assert parse_hl_smi(text) == [
        GPUFacts("intel", "Gaudi", 32),
        GPUFacts("intel", "Gaudi2", 96),
        GPUFacts("intel", "Gaudi3", 128),
        GPUFacts("intel", "Gaudi", 0),
    ]
    assert parse_hl_smi("") == parse_hl_smi("hl-smi: no devices\n") == []


def test_tt_smi_counts_boards_and_not_their_second_chips() -> None:
    devices = [{"board_info": {"board_type": kind, "bus_id": "0000:01:00.0"}} for kind in ("n300 L", "n300 R", "p150b", "x1")]
    text = "Gathering Information\n" + json.dumps({"time": "now", "device_info": devices})
    assert parse_tt_smi(text) == [
        GPUFacts("tenstorrent", "n300", 24),
        GPUFacts("tenstorrent", "p150b", 32),
        GPUFacts("tenstorrent", "x1", 0),
    ]
    with pytest.raises((ValueError, TypeError)):
        parse_tt_smi("no devices")


ROWS = """\
0, NVIDIA A100-SXM4-80GB, 81920
1, NVIDIA A100-SXM4-80GB, 81920
2, NVIDIA A100-SXM4-80GB, 81920
3, NVIDIA DGX Display, 4096
4, NVIDIA A100-SXM4-80GB, 81920
"""


@pytest.mark.parametrize(
    ("rows", "name", "memory", "numbers", "note"),
    [
        (ROWS, "A100", 80, "0,1,2,4", "DGXDisplay (device 3)"),
        ("0, NVIDIA GeForce GT 1030, 2048\n1, NVIDIA GeForce RTX 4090, 24564\n2, NVIDIA GeForce RTX 4090, 24564\n",
         "RTX4090", 24, "1,2", "GT1030 (device 0)"),
        ("0, NVIDIA T400 4GB, 4096\n1, NVIDIA L40S, 46068\n", "L40S", 48, "1", "T400 (device 0)"),
        ("0, NVIDIA L40S, 46068\nUnable to determine the device handle for GPU1: 0000:41:00.0: Unknown Error\n"
         "2, NVIDIA L40S, 46068\n3, NVIDIA L40S, 46068\n", "L40S", 48, "0,2,3", "a card does not answer: reboot"),
        ("0, [Unknown Error], [Unknown Error]\n1, NVIDIA L4, 23034\n", "L4", 24, "1", "a card does not answer"),
        ("0, NVIDIA GB10, [N/A]\n", "GB10", 119.7, "0", ""),
        ("0, Orin (nvgpu), [Not Supported]\n", "Orin", 119.7, "0", ""),
        ("0, NVIDIA A100-SXM4-80GB MIG 1g.10gb, 9856\n", "A100 MIG 1g.10gb", 9.6, "0", ""),
        ("", "", 0, "", ""),
    ],
)  # fmt: skip
def test_the_gpus_that_jobs_get_are_those_that_fit(rows: str, name: str, memory: float, numbers: str, note: str) -> None:
    cards, notes = read_tool("nvidia-smi", rows, 0)
    gpus, others = offered(cards, 119.7)
    assert {(gpu.name, gpu.memory_gb) for gpu in gpus} == ({(name, memory)} if name else set())
    assert devices(gpus) == numbers
    assert note in "; ".join([*notes, *others])
    assert bool(note) == bool([*notes, *others])


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("NVIDIA GH200 144G HBM3e", "GH200"), ("NVIDIA GH200 480GB", "GH200"), ("Tesla V100-DGXS-32GB", "V100"),
        ("Tesla V100-FHHL", "V100"), ("NVIDIA A100-PG509-200", "A100"), ("NVIDIA H20-3e", "H20"), ("NVIDIA GB10", "GB10"),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "H100 MIG 3g.40gb"), ("NVIDIA A30 MIG 1g.6gb", "A30 MIG 1g.6gb"),
        ("NVIDIA A100-SXM-64GB", "A100"), ("Tesla V100-PCIE-16GB-LS", "V100"), ("NVIDIA L20", "L20"),
    ],
)  # fmt: skip
def test_names_that_drivers_print(product: str, name: str) -> None:
    assert short_name(product) == name


def test_a_driver_s_fault_has_its_remedy() -> None:
    said = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.161\n"
    gpus, notes = read_tool("nvidia-smi", said, 18)
    assert gpus == []
    assert "version mismatch" in notes[0]
    assert "reboot, or reload the nvidia modules" in notes[0]


def test_warnings_beside_the_json_are_read_past_and_told() -> None:
    warning = "WARNING: User is missing the following required groups: render, video. Please add user to these groups.\n"
    gpus, notes = read_tool("amd-smi", warning + json.dumps([AMD_CARD], indent=4), 0)
    assert gpus == [GPUFacts("amd", "MI300X", 192)]
    assert "usermod -aG render,video" in notes[0]
    low = "WARNING: AMD GPU device(s) is/are in a low-power state. Check power control/runtime_status\n\n"
    for text in (low + json.dumps({"card0": ROCM_CARD}), json.dumps({"card0": ROCM_CARD}) + "\n" + low):
        assert read_tool("rocm-smi", text, 0)[0] == [GPUFacts("amd", "RX7900XT", 20)]
    assert read_tool("rocm-smi", "WARNING: [gpu] {is} asleep\n" + json.dumps({"card0": ROCM_CARD}), 0)[0]


def test_warnings_of_a_tool_on_stderr_are_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool(tmp_path, "rocm-smi", f"echo 'WARNING: low power' >&2; echo '{json.dumps({'card0': ROCM_CARD})}'")
    assert facts.gpus_of_tools() == ([GPUFacts("amd", "RX7900XT", 20)], [])
