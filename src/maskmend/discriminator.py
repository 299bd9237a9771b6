"""The mask discriminator: a smooth convolutional encoder (sections 3.1 and 3.2).

Axes: batch, structure (the classes without the background), height, width.

One that sees the image too has the image's channels after the structures. The paper's judges masks
alone, so that a realistic mask of another heart would satisfy it.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from maskmend.errors import ConfigError

Activation = Literal["tanh", "leaky_relu"]


class MaskDiscriminator(nn.Module):
    """Soft or one-hot masks, without their background, to one unbounded score each.

    Spectral normalisation (Miyato et al. 2018) and tanh bound its Lipschitz constant, so that it
    changes little over the last epochs of training (section 3.1, challenge 2).

    Args:
        channels: Of what is judged: the mask's classes but the background, and the image's if it is
            seen too.
        size: Height and width of a mask, in pixels.
        widths: Filters of each 4x4 convolution.
        strides: Stride of each convolution. "After the first two layers, we down-sample [...] using
            a stride of 2" (section 3.2) is read as: those two have the stride.
        normalised: Layers with a unit spectral norm: "all", "inner" (neither the first convolution
            nor the dense head) or "none".
        activation: After each convolution.
        first_activation: After the first convolution.
        bottleneck: Channels of the 1x1 sigmoid convolutions between the 4x4 ones, if any.

    Raises:
        ValueError: The masks are too small for so many convolutions.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        widths: Sequence[int],
        strides: Sequence[int],
        normalised: Literal["all", "inner", "none"] = "all",
        activation: Activation = "tanh",
        first_activation: Activation | None = None,
        bottleneck: int | None = None,
    ):
        super().__init__()
        self.channels, self.size = channels, size
        layers: list[nn.Module] = []
        side = size
        for index, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            if index and bottleneck:
                layers += [
                    _normalise(nn.Conv2d(channels, bottleneck, 1), normalised != "none"),
                    nn.Sigmoid(),
                ]
                channels = bottleneck
            convolution = nn.Conv2d(channels, width, 4, stride, padding=1)
            inner = index > 0 and normalised == "inner"
            is_first = index == 0 and first_activation is not None
            layers += [
                _normalise(convolution, inner or normalised == "all"),
                _activation(first_activation if is_first and first_activation else activation),
            ]
            channels, side = width, (side - 2) // stride + 1
        if side < 1:
            raise ConfigError(
                f"preprocess.size: masks of {size} pixels are too small for {len(widths)}"
                " convolutions of the discriminator; choose a larger one, or fewer"
                " discriminator.widths"
            )
        self.encoder = nn.Sequential(*layers)
        self.head = _normalise(nn.Linear(channels * side * side, 1), normalised == "all")

    def forward(
        self, masks: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, " batch"]:
        """Score of each mask (see `judged`), in 32 bits: high is realistic.

        Raises:
            ConfigError: The masks have other channels or another size.
        """
        expected = (self.channels, self.size, self.size)
        if masks.shape[1:] != expected:
            raise ConfigError(
                f"prior: judges masks of (structures, height, width) {expected}, without the"
                f" background; got {tuple(masks.shape[1:])}; choose a prior of these structures and"
                " this size"
            )
        features = self.encoder(masks).flatten(1).float()
        # bfloat16 would round a score to two digits.
        with torch.autocast(masks.device.type, enabled=False):
            return self.head(features).squeeze(1)


def judged(
    masks: Float[Tensor, "batch structure height width"],
    images: Float[Tensor, "batch channel height width"] | None,
    *,
    sees_image: bool,
) -> Float[Tensor, "batch channels height width"]:
    """What a discriminator is shown of masks.

    Args:
        masks: Without their background.
        images: What they are masks of; needed if it sees them.
        sees_image: Whether it does.
    """
    if not sees_image:
        return masks
    assert images is not None
    return torch.cat([masks, images.to(masks)], dim=1)


def _normalise(layer: nn.Module, wanted: bool) -> nn.Module:
    return spectral_norm(layer) if wanted else layer


def _activation(name: Activation) -> nn.Module:
    return nn.Tanh() if name == "tanh" else nn.LeakyReLU(0.2)
