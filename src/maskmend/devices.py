"""Where to compute, in which precision, and how much at once."""

from typing import Literal

import torch

from maskmend.config import Precision
from maskmend.errors import ConfigError


def device_of(name: str | torch.device | None) -> torch.device:
    """A device by its name; by default a GPU if there is one.

    Raises:
        ConfigError: There is no such device.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # what torch raises without CUDA
        raise ConfigError(f"device: {name} is not available on this machine; try cpu") from error


def slices_a_pass(device: torch.device) -> int:
    """Most slices that go through a network together where nothing else says how many."""
    return 512 if device.type == "cuda" else 32


def resolve_precision(
    precision: Precision, device: torch.device
) -> Literal["32-true", "bf16-mixed"]:
    """What "auto" means on a device: bfloat16 where it has units for its matrix products.

    Without them a processor makes it up in software, and a step takes ten times as long.
    """
    if precision != "auto":
        return precision
    if device.type == "cuda":
        has_units = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Tiles, or dot products of vectors, which make a step 1.9 times as fast (benchmarks/).
        has_units = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16-mixed" if has_units else "32-true"


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Passes through networks in a precision; what "auto" is, see `resolve_precision`."""
    mixed = resolve_precision(precision, device) == "bf16-mixed"
    return torch.autocast(device.type, torch.bfloat16, enabled=mixed)


def weights_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Of frozen weights, which then need no conversion in `autocast`."""
    mixed = resolve_precision(precision, device) == "bf16-mixed"
    return torch.bfloat16 if mixed else torch.float32
