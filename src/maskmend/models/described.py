"""A network from a file that holds nothing else, with what is said of it beside the file."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.config import ModelConfig, PriorConfig
from maskmend.config_file import config_from, read_tree
from maskmend.errors import ConfigError
from maskmend.models.brought import BroughtModel
from maskmend.models.sliced import SlicedImages


def description(beside: Path, found: Mapping[str, Any]) -> ModelConfig:
    """What is known of a model.

    Args:
        beside: The YAML file that may describe it, and has the last word.
        found: Fields of `ModelConfig` that its own files tell.

    Raises:
        ConfigError: The YAML file is wrong.
    """
    said = read_tree(beside) if beside.is_file() else {}
    return config_from({**found, **said}, source=str(beside), kind=ModelConfig)


def described(
    path: Path,
    network: nn.Module,
    digest: str,
    config: ModelConfig,
    beside: Path,
    prior: PriorConfig | None,
) -> BroughtModel:
    """A network with all that must be known to use it.

    Args:
        path: Where it came from.
        network: Images to logits.
        digest: Of its files.
        config: What is said of it.
        beside: Where more could be said.
        prior: Fills what is not said.

    Raises:
        ConfigError: Pixel size or structures are said nowhere, or its intensities are unknown.
    """
    preprocess = config.preprocess or (prior.preprocess if prior else None)
    structures = config.structures or (prior.data.structures if prior else None)
    if preprocess is None or structures is None:
        missing = "preprocess" if preprocess is None else "structures"
        raise ConfigError(f"{path}: nothing says its {missing}; write {beside}, or give --prior")
    steps = config.intensities
    prepared = dataclasses.replace(config, preprocess=preprocess, structures=structures)
    told = json.dumps(dataclasses.asdict(prepared), sort_keys=True)
    try:
        images = SlicedImages(
            preprocess=preprocess,
            intensities=None if steps is None else [pair for one in steps for pair in one.items()],
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return BroughtModel(
        path=path,
        digest=hashlib.sha256(f"{digest} {told}".encode()).hexdigest(),
        network=network if config.axes == "LP" else Turned(network, config.axes),
        channels=config.channels,
        structures=structures,
        images=images,
        activation=config.activation,
    )


class Turned(nn.Module):
    """A network for slices that lie in another way.

    Args:
        network: Images to logits.
        axes: Where height and width run to (see `ModelConfig`); ours run to the left and to the
            back.
    """

    def __init__(self, network: nn.Module, axes: str):
        super().__init__()
        self.network = network
        self.transposed = axes[0] in "PA"
        self.flips = [2 + axis for axis, to in enumerate(axes) if to in "RA"]

    def forward(
        self, images: Float[Tensor, "slice channel height width"]
    ) -> Float[Tensor, "slice class height width"]:
        """The network's output, turned back."""
        turned = (images.transpose(2, 3) if self.transposed else images).flip(self.flips)
        logits: Tensor = self.network(turned).flip(self.flips)
        return logits.transpose(2, 3) if self.transposed else logits


class OneByOne(nn.Module):
    """A network that was saved for one slice at a time."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(
        self, images: Float[Tensor, "slice channel height width"]
    ) -> Float[Tensor, "slice class height width"]:
        """Logits of all slices."""
        return torch.cat([self.network(one) for one in images.split(1)])
