"""Versions and hardware, to stand beside every number."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def environment(device: torch.device) -> dict[str, Any]:
    """What numbers that are computed on a device depend on, ready for JSON."""
    return {
        "maskmend": metadata.version("maskmend"),
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """Commit of the source tree, if the package runs from one."""
    here = Path(__file__)

    def git(*command: str) -> str:
        whole = ["git", "-C", str(here.parent), *command]
        return subprocess.run(whole, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # and not that of somebody else's around it
        return git("describe", "--always", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """Model of the CPU, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
