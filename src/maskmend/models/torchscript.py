"""TorchScript files (.ts, .pt): a network in torch's own language, which has no pickles.

How images are prepared stands in a YAML file of the same name beside it (see `ModelConfig`).
"""

import warnings
import zipfile
from pathlib import Path

import torch
from torch import nn

from maskmend.checkpoint import digest_of
from maskmend.config import PriorConfig
from maskmend.errors import RunError
from maskmend.models.brought import BroughtModel, reading
from maskmend.models.described import described, description

EXPECTED = "a TorchScript file (.ts or .pt)"


def fits(path: Path) -> bool:
    """Whether a file is named like one."""
    return path.is_file() and path.suffix in (".ts", ".pt", ".pth")


def read(path: Path, prior: PriorConfig | None = None) -> BroughtModel:
    """Read a file.

    Args:
        path: The file.
        prior: Says what the YAML file does not.

    Raises:
        RunError: It is damaged, or holds weights without their network.
        ConfigError: What must be known of it is said nowhere, or wrong.
    """
    network = read_network(path)
    beside = path.with_suffix(".yaml")
    return described(path, network, digest_of(path), description(beside, {}), beside, prior)


def read_network(path: Path) -> nn.Module:
    """The network alone, in evaluation mode; raises RunError as `read` does."""
    if zipfile.is_zipfile(path) and not _has_code(path):
        raise RunError(
            f"{path}: holds weights without their network; save it whole, by torch.export.save or"
            " torch.jit.save"
        )
    with (
        reading(path, "copy it again, or save it again by torch.jit.save"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # torch would rather have torch.export
        script = torch.jit.load(str(path), map_location="cpu").eval()
    for parameter in script.parameters():
        parameter.requires_grad_(False)
    return Scripted(script)


class Scripted(nn.Module):
    """A script in a module, which can be copied and moved as others are."""

    def __init__(self, script: nn.Module):
        super().__init__()
        self.script = script

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """What the script returns."""
        return self.script(images)


def _has_code(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
