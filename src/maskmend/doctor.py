"""What this machine has for Maskmend, what would be slow on it, and the remedy."""

import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich import box
from rich.table import Table

from maskmend.devices import resolve_precision
from maskmend.environment import processor

LEAST_MEMORY = 2 * 2**30
"""Bytes that should be free: four times what adaptation at 112 x 112 takes on a CPU (see
docs/adaptation.md)."""
LEAST_DISK = 2**30

_LIBRARIES = ("monai", "nibabel", "numpy", "lightning-fabric")
_EXTRAS = {"dicom": ("pydicom", "highdicom"), "lvsc": ("pydicom", "pillow"), "ray": ("ray",)}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    remedy: str = ""
    """What to do, where it makes things slow or is missing."""


def examine(folder: Path = Path()) -> list[Finding]:
    """Look at versions, device, precision, threads, memory and disk; takes no time.

    Args:
        folder: Where results would be written.
    """
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    return [
        Finding("maskmend", f"{version('maskmend')}, Python {platform.python_version()}"),
        Finding("libraries", ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)),
        _torch(gpu),
        _device(device),
        _precision(device),
        _threads(),
        *_load(),
        *_memory(),
        _disk(folder),
        *_extras(),
    ]


def table(findings: Sequence[Finding]) -> Table:
    """Findings for a terminal."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "found", "what to do"):
        shown.add_column(heading, overflow="fold")
    for one in findings:
        shown.add_row(one.what, one.found, one.remedy or "-")
    return shown


def _torch(gpu: bool) -> Finding:
    found = torch.__version__
    if gpu or not Path("/proc/driver/nvidia/version").exists():
        return Finding("torch", found)
    return Finding(
        "torch",
        f"{found}, which cannot use the GPU of this machine",
        "install the torch for its driver, see https://pytorch.org/get-started",
    )


def _device(device: torch.device) -> Finding:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Finding("device", f"GPU {name}, {_gb(free)} of {_gb(total)} free")
    return Finding(
        "device",
        f"CPU {processor()}, {_cores()} cores, no GPU",
        "adaptation takes seconds to minutes a patient: --steps auto leaves realistic masks alone;"
        " train on a GPU, or with small preprocess.size and segmentor.width",
    )


def _precision(device: torch.device) -> Finding:
    if resolve_precision("auto", device) == "bf16-mixed":
        return Finding("precision", "bfloat16 in hardware, where precision is auto")
    return Finding(
        "precision",
        "32 bits: no units for bfloat16",
        "steps are slower than on a device with them (GPUs since 2020, CPUs with AMX or"
        " AVX512-BF16)",
    )


def _threads() -> Finding:
    threads, cores = torch.get_num_threads(), _cores()
    remedy = ""
    if threads > cores:
        remedy = f"they wait for each other: set OMP_NUM_THREADS={cores}"
    elif threads == 1 < cores and "OMP_NUM_THREADS" in os.environ:
        remedy = "unset OMP_NUM_THREADS to use all cores"
    return Finding("threads", f"{threads} on {cores} cores", remedy)


def _load() -> Iterator[Finding]:
    if not hasattr(os, "getloadavg"):  # Windows
        return
    load, cores = os.getloadavg()[0], _cores()
    busy = load > 0.75 * cores
    remedy = "other programs take the cores: wait for them, or stop them" if busy else ""
    yield Finding("load", f"{load:.1f} programs at work on {cores} cores", remedy)


def _memory() -> Iterator[Finding]:
    if (free := _free_memory()) is None:
        return
    little = free < LEAST_MEMORY
    remedy = "close other programs, or use a machine with more" if little else ""
    yield Finding("memory", f"{_gb(free)} free", remedy)


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    remedy = "free space, or choose another --out" if free < LEAST_DISK else ""
    if not os.access(folder, os.W_OK):
        remedy = "this folder may not be written to: choose another --out"
    return Finding("disk", f"{_gb(free)} free in {folder.absolute()}", remedy)


def _extras() -> Iterator[Finding]:
    for extra, packages in _EXTRAS.items():
        try:
            found = ", ".join(f"{name} {version(name)}" for name in packages)
            yield Finding(f"extra {extra}", found)
        except PackageNotFoundError:
            remedy = f"if needed: pip install 'maskmend[{extra}]'"
            yield Finding(f"extra {extra}", "not installed", remedy)


def _cores() -> int:
    """Those that this process may use, a container's share of them rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    share = Path("/sys/fs/cgroup/cpu.max")
    if share.exists():
        quota, period = share.read_text().split()
        if quota != "max":
            cores = min(cores or 1, -(-int(quota) // int(period)))
    return cores or 1


def _free_memory() -> int | None:
    """Bytes, no more than a container still may take; None where the system does not tell."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    sizes = dict(line.split(":") for line in info.read_text().splitlines())
    free = int(sizes["MemAvailable"].split()[0]) * 1024
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.exists() and used.exists() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    return free


def _gb(size: float) -> str:
    return f"{size / 2**30:.1f} GB"
