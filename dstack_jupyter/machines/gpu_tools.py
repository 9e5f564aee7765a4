"""What the vendors' GPU tools print, and which GPUs of a machine jobs are offered. Pure functions of text.

Rows of real machines are tests/machines/test_facts.py's. What a job gets are the numbers of the devices that fit, never a count.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..models.gpus import short_name, sold_memory

GB = 1024**3
DISPLAY_ONLY = 1.0
"""GB: a GPU with less memory is the processor's own, for the screen."""


@dataclass(frozen=True, slots=True)
class GPUFacts:
    vendor: Literal["nvidia", "amd", "intel", "tenstorrent"]
    name: str
    memory_gb: float
    """0 where the tool does not say. Of a GPU that shares the machine's memory, that (``offered``)."""
    index: int = field(default=0, compare=False)
    """Its number in its vendor's tool: what a job is given."""
    shared: bool = False
    """Whether its memory is the machine's."""


def parse_nvidia_smi(text: str) -> list[GPUFacts]:
    """Output of ``nvidia-smi --query-gpu=index,name,memory.total --format=csv,noheader,nounits`` (MiB).

    A card that does not answer has a sentence in the place of its line, or of its name: it is left out, its number with it.
    """
    gpus = []
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        if len(row) != 3 or not row[0].strip().isdigit() or row[1].strip().startswith("["):
            continue
        index, product, size = int(row[0]), row[1].strip(), row[2].strip()
        name = short_name(product)
        memory = int(size) / 1024 if size.isdigit() else 0.0
        # A slice has what it reports: no size of a box.
        memory = round(memory, 1) if " MIG " in product else sold_memory(name, memory)
        gpus.append(GPUFacts("nvidia", name, memory, index, shared=not size.isdigit()))
    return gpus


def silent_nvidia(text: str) -> list[str]:
    """Of the same output, what is said of cards that do not answer."""
    said = []
    for line in text.splitlines():
        row = [cell.strip() for cell in line.split(",")]
        if line.strip() and not (len(row) == 3 and row[0].isdigit() and not row[1].startswith("[")):
            said.append(line.strip()[:200])
    return said


def offered(gpus: Sequence[GPUFacts], memory_gb: float) -> tuple[list[GPUFacts], list[str]]:
    """(the GPUs of a machine that jobs are offered: of one kind, notes on the others). ``memory_gb`` is the machine's.

    An offer is of one kind: the one with the most memory together. Screens' cards are none.
    """
    cards = [replace(gpu, memory_gb=memory_gb) if gpu.shared else gpu for gpu in gpus]
    kinds: dict[GPUFacts, list[GPUFacts]] = {}
    for card in cards:
        if not SCREEN.search(card.name):
            kinds.setdefault(card, []).append(card)
    chosen = max(kinds.values(), key=lambda kind: (sum(card.memory_gb for card in kind), len(kind)), default=[])
    others = [card for card in cards if card not in chosen]
    names = ", ".join(f"{card.name} (device {card.index})" for card in others)
    return chosen, [f"not offered, since an offer is of one kind: {names}"] if others else []


def devices(gpus: Sequence[GPUFacts]) -> str:
    """Their numbers, as an offer holds them."""
    return ",".join(str(gpu.index) for gpu in gpus)


SCREEN = re.compile(r"Display$|^GT ?\d|^NVS", re.IGNORECASE)
"""Cards for a screen: DGX Display, GT 1030, NVS 310."""


def remedy(complaint: str) -> str:
    """What to do about a tool's complaint; '' if that is not known."""
    low = complaint.lower()
    return next((text for words, text in REMEDIES if any(word in low for word in words)), "")


REMEDIES = (
    (("version mismatch",), "the driver was updated under a running kernel module: reboot, or reload the nvidia modules"),
    (
        ("couldn't communicate", "could not communicate", "driver not loaded"),
        "load the driver (`sudo modprobe nvidia`), or reinstall it",
    ),
    (("no devices were found",), "the driver runs and sees no card: `lspci | grep -i nvidia`, `dmesg | grep -i nvrm` say more"),
    (
        ("device handle", "fallen off", "gpu is lost", "unknown error"),
        "a card does not answer: reboot; `dmesg | grep -i xid` says more",
    ),
    (
        ("insufficient permissions", "permission", "render", "video group"),
        "`sudo usermod -aG render,video $USER`, then log in anew",
    ),
)
"""Words of nvidia-smi, amd-smi and rocm-smi, as users report them → what helps."""


def first_json(text: str) -> Any:
    """The first JSON array or object of a text that may begin or end with warnings. Raises ValueError."""
    decoder = json.JSONDecoder()
    for start in re.finditer(r"^\s*([\[{])", text, re.MULTILINE):
        try:
            value, _ = decoder.raw_decode(text, start.start(1))
        except ValueError:
            continue
        if value:
            return value
    raise ValueError("no JSON")


def before_json(text: str) -> str:
    """What stands before the JSON of a tool's answer: a warning."""
    head = re.split(r"^\s*[\[{]", text, maxsplit=1, flags=re.MULTILINE)[0]
    return " ".join(head.split())[:200]


def parse_utilization(text: str) -> list[int]:
    """Output of ``nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader,nounits``: percent, one GPU a line."""
    return [int(line) for line in text.split() if line.isdigit()]


def parse_amd_smi(text: str) -> list[GPUFacts]:
    """Output of ``amd-smi static --asic --vram --json``: a list of GPUs, which newer versions put under ``gpu_data``.

    Raises ValueError for anything else.
    """
    data = first_json(text)
    cards = data.get("gpu_data") if isinstance(data, dict) else data
    if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
        raise ValueError("expected a list of GPUs")
    gpus = []
    for number, card in enumerate(cards):
        product = str(_inner(card, "asic", "market_name") or "AMD GPU")
        size = _inner(card, "vram", "size")
        megabytes = str(size.get("value") if isinstance(size, dict) else size).removesuffix("MB").strip()
        index = card.get("gpu")
        index = index if isinstance(index, int) else number
        gpus += _amd(product, int(megabytes) / 1024 if megabytes.isdigit() else 0.0, index)
    return gpus


def parse_rocm_smi(text: str) -> list[GPUFacts]:
    """Output of ``rocm-smi --showproductname --showmeminfo vram --json``: bytes as text, one object a card.

    Raises ValueError, TypeError for anything else.
    """
    data = first_json(text)
    if not isinstance(data, dict):
        raise TypeError("expected an object of cards")
    gpus = []
    numbered = [(int(name[4:]), card) for name, card in data.items() if re.fullmatch(r"card\d+", name)]
    for index, card in sorted(numbered, key=lambda item: item[0]):
        total = str(_inner(card, "VRAM Total Memory (B)"))
        product = _inner(card, "Card Series") or _inner(card, "Card series") or "AMD GPU"
        gpus += _amd(str(product), int(total) / GB if total.isdigit() else 0.0, index)
    return gpus


def parse_hl_smi(text: str) -> list[GPUFacts]:
    """Output of ``hl-smi -Q index,name,memory.total -f csv,noheader``: ``0, HL-225, 98304 MiB`` a line (Intel Gaudi)."""
    gpus = []
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        if len(row) == 3 and row[0].strip().isdigit():
            name = GAUDI.get(row[1].strip().upper()[:5], "Gaudi")
            size = row[2].strip().removesuffix("MiB").strip()
            memory = sold_memory(name, int(size) / 1024) if size.isdigit() else 0.0
            gpus.append(GPUFacts("intel", name, memory, int(row[0])))
    return gpus


GAUDI = {"HL-20": "Gaudi", "HL-22": "Gaudi2", "HL-32": "Gaudi3", "HL-33": "Gaudi3"}
"""Board names of hl-smi (HL-205, HL-225, HL-325L) by their first five letters."""
TENSTORRENT = {"n150": 12.0, "n300": 24.0, "p100": 28.0, "p150": 32.0, "p300": 64.0}
"""GB of each board: tt-smi does not report memory."""


def parse_tt_smi(text: str) -> list[GPUFacts]:
    """Output of ``tt-smi -s``: JSON whose ``device_info`` has one entry a chip; an n300's second chip is part of the first.

    Raises ValueError, TypeError for anything else.
    """
    data: Any = json.loads(text[text.find("{") :])
    devices = _inner(data, "device_info")
    if not isinstance(devices, list):
        raise TypeError("expected device_info")
    gpus: list[GPUFacts] = []
    for device in devices:
        words = str(_inner(device, "board_info", "board_type") or "").lower().split()
        if words and not (len(words) > 1 and words[1] == "r"):
            gpus.append(GPUFacts("tenstorrent", words[0], TENSTORRENT.get(words[0].rstrip("abc"), 0.0), len(gpus)))
    return gpus


def _inner(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _amd(product: str, memory_gb: float, index: int) -> list[GPUFacts]:
    name = short_name(product)
    return [GPUFacts("amd", name, sold_memory(name, memory_gb), index)] if memory_gb >= DISPLAY_ONLY else []


TOOLS: dict[str, tuple[Callable[[str], list[GPUFacts]], tuple[str, ...]]] = {
    "nvidia-smi": (parse_nvidia_smi, ("--query-gpu=index,name,memory.total", "--format=csv,noheader,nounits")),
    "amd-smi": (parse_amd_smi, ("static", "--asic", "--vram", "--json")),
    "rocm-smi": (parse_rocm_smi, ("--showproductname", "--showmeminfo", "vram", "--json")),
    "hl-smi": (parse_hl_smi, ("-Q", "index,name,memory.total", "-f", "csv,noheader")),
    "tt-smi": (parse_tt_smi, ("-s",)),
}
"""The vendors' tools: how each is read and asked. hello.sh asks the same of a host."""


def read_tool(name: str, output: str, code: int) -> tuple[list[GPUFacts], list[str]]:
    """(the GPUs that a tool reports, notes on what it complains of, with the remedy). GPUs count whatever its exit code."""
    gpus: list[GPUFacts] = []
    readable = True
    try:
        gpus = TOOLS[name][0](output)
    except (KeyError, TypeError, ValueError):
        readable = False
    said = silent_nvidia(output) if name == "nvidia-smi" else [before_json(output)]
    complaints = [f"{name}: {line}" for line in said if line]
    if code and not gpus:
        first = next((line.strip() for line in output.splitlines() if line.strip()), "")[:200]
        complaints = [f"{name} failed with exit code {code}: {first}"]
    elif not readable:
        complaints = [f"{name} answered in a form that is not known"] if output.strip() else []
    return gpus, [f"{line}: {help}" if (help := remedy(line)) else line for line in complaints]
