"""The adaptor: a shallow residual block in front of the segmentor (section 3.3).

The paper takes it from Karani et al., "Test-time adaptable neural networks for robust medical image
segmentation", Medical Image Analysis 2021.

Axes: batch, channel, then height and width, or depth, height and width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class GaussianActivation(nn.Module):
    """exp(-T^2 / s^2) with a trainable scale s (section 3.3).

    The paper starts s at 0, where the gradient is zero for T and s alike; see `AdaptorConfig`.

    Args:
        scale: Start of s: one value, or one a channel.
        dimensions: 2 for slices, 3 for volumes.
    """

    def __init__(self, scale: Float[Tensor, " channel"], dimensions: int = 2):
        super().__init__()
        self.scale = nn.Parameter(scale.reshape(-1, *[1] * dimensions))

    def forward(
        self, features: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Values in (0, 1], 1 where the input is 0."""
        # The tiny addend keeps the gradient finite should s ever cross 0. A product with the small
        # tensor of scales is cheaper than negating and dividing the large one.
        factor = -1 / (self.scale.square() + 1e-6)
        return torch.exp(features.square() * factor.to(features.dtype))


class Adaptor(nn.Module):
    """Image to an image that the segmentor finds easier: x + f(x), f three 3x3 convolutions.

    Args:
        channels: Channels of the image.
        dimensions: 2 for slices, 3 for volumes, whose convolutions are 3x3x3.
        widths: Filters of the hidden convolutions.
        identity: Start as the identity, by a last convolution of zeros. Its own gradient is not
            zero, so that the first step moves it, and the next step moves the others.
        scale_mean: Mean of the activations' scales at the start.
        scale_std: Their standard deviation.
        scale_per_channel: One scale a channel rather than one a layer.
        final_activation: Activation after the last convolution too.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        dimensions: int = 2,
        widths: Sequence[int] = (16, 16),
        identity: bool = True,
        scale_mean: float = 0.2,
        scale_std: float = 0.0,
        scale_per_channel: bool = False,
        final_activation: bool = False,
    ):
        super().__init__()
        kind = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
        layers: list[nn.Module] = []
        outputs = [*widths, channels]
        for index, (n_in, n_out) in enumerate(zip([channels, *widths], outputs, strict=True)):
            convolution = kind(n_in, n_out, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight)
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]  # it has a bias here
            layers.append(convolution)
            if index < len(widths) or final_activation:
                scale = torch.full((n_out if scale_per_channel else 1,), scale_mean)
                scale = scale + scale_std * torch.randn_like(scale)
                layers.append(GaussianActivation(scale, dimensions))
        if identity:
            nn.init.zeros_(convolution.weight)
        self.layers = nn.Sequential(*layers)

    def forward(
        self, image: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """The adapted image."""
        return image + self.layers(image)
