"""Where to compute."""

import torch

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
