"""The segmentor: a UNet with batch normalisation (section 3.2; Ronneberger et al. 2015).

Axes: batch, channel (of the image) or class (of the mask), height, width.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class UNet(nn.Module):
    """Image to logits, one a class.

    Each level halves height and width and doubles the channels; the way up doubles them by
    nearest-neighbour upsampling and a 3x3 convolution, which leaves no checkerboard.

    Args:
        in_channels: Channels of the image.
        classes: Classes of the mask, the background included.
        width: Channels of the first level.
        depth: Number of levels; height and width must be multiples of ``2 ** (depth - 1)``.
    """

    def __init__(self, *, in_channels: int, classes: int, width: int, depth: int):
        super().__init__()
        widths = [width * 2**level for level in range(depth)]
        self.encoder = nn.ModuleList(
            _double_convolution(n_in, n_out)
            for n_in, n_out in zip([in_channels, *widths], widths, strict=False)
        )
        self.upsample = nn.ModuleList(
            nn.Sequential(
                nn.Upsample(scale_factor=2),
                nn.Conv2d(2 * n_out, n_out, 3, padding=1),
                nn.BatchNorm2d(n_out),
            )
            for n_out in reversed(widths[:-1])
        )
        self.decoder = nn.ModuleList(
            _double_convolution(2 * n_out, n_out) for n_out in reversed(widths[:-1])
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch class height width"]:
        """Logits of the image's masks."""
        skipped = self.encode(image)
        features = skipped.pop()
        for upsample, decode in zip(self.upsample, self.decoder, strict=True):
            features = decode(torch.cat([upsample(features), skipped.pop()], dim=1))
        return self.head(features)

    def encode(
        self, image: Float[Tensor, "batch channel height width"]
    ) -> list[Float[Tensor, "batch channel_ height_ width_"]]:
        """Features of each level, the deepest last."""
        features, levels = image, list[Tensor]()
        for level, encode in enumerate(self.encoder):
            features = encode(nn.functional.max_pool2d(features, 2) if level else features)
            levels.append(features)
        return levels


def _double_convolution(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
        nn.Conv2d(n_out, n_out, 3, padding=1),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    )
