"""What networks return, and what it says of masks.

Axes: slice or patch, channel or class, then height and width, or depth, height and width.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.errors import ConfigError

Activation = Literal["softmax", "sigmoid"]


class Probabilities(nn.Module):
    """A network, its outputs made probabilities, the background first.

    Args:
        network: Images to logits (see `logits_of`).
        activation: "softmax": a class each, the background first; "sigmoid": a structure each, no
            background; structures may overlap, and the background is where none of them is.
    """

    def __init__(self, network: nn.Module, activation: Activation = "softmax"):
        super().__init__()
        self.network, self.activation = network, activation

    def forward(
        self, images: Float[Tensor, "slice channel *space"]
    ) -> Float[Tensor, "slice class *space"]:
        """Probabilities, in 32 bits."""
        logits = logits_of(self.network(images), images).float()
        if self.activation == "softmax":
            return logits.softmax(1)
        structures = logits.sigmoid()
        return torch.cat([(1 - structures).prod(1, keepdim=True), structures], dim=1)


def logits_of(
    outputs: Any, images: Float[Tensor, "slice channel *space"]
) -> Float[Tensor, "slice class *space"]:
    """The first output that is as large as the images.

    Deep supervision gives several: in a list, a tuple or a mapping, or stacked along the second
    axis of one tensor.

    Raises:
        ConfigError: None of them is.
    """
    found = list(tensors_in(outputs))
    for tensor in found:
        one = tensor[:, 0] if tensor.dim() == images.dim() + 1 else tensor
        if (one.shape[:1], one.shape[2:]) == (images.shape[:1], images.shape[2:]):
            return one
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found) or type(outputs).__name__
    expected = ", ".join(["class", *map(str, images.shape[2:])])
    raise ConfigError(
        f"segmentor: returns {shapes}, expected logits of ({len(images)}, {expected}), as large as"
        " the images; wrap it in a module that returns them"
    )


def tensors_in(outputs: Any) -> Iterator[Tensor]:
    """The tensors of nested lists, tuples and mappings."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        yield from tensors_in(list(outputs.values()))
    elif isinstance(outputs, (list, tuple)):
        for one in outputs:
            yield from tensors_in(one)
