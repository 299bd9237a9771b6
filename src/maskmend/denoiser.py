"""A denoising autoencoder of whole masks: another prior than the discriminator (figure 4).

Karani et al., "Test-time adaptable neural networks for robust medical image segmentation", Medical
Image Analysis 2021, section 3.2: a 3D network that was shown corrupted masks, and learned to mend
them. `rivals/denoiser_training.py` trains it, `rivals/follow.py` adapts with it.

Axes: slice, class, height, width for the slices of a volume; volume, class, depth, height, width
for what the network sees: volumes of all lengths are resampled to one depth.
"""

from contextlib import nullcontext
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskmend.checkpoint import read_network

DENOISER = "denoiser.safetensors"
"""In a run folder, once it has been trained."""

Masks = Float[Tensor, "slice class height width"]


class Denoiser(nn.Module):
    """Soft or one-hot masks to logits of mended ones.

    Four levels of two 3x3x3 convolutions with batch norm, as Karani et al. have them, with skip
    connections but at the full resolution, where they would hand the corruption on.

    Args:
        classes: Of the masks, the background included.
        width: Channels of the first level; each level below has twice as many (theirs: 16).
        depth: Slices that a volume is resampled to (theirs: 64, of 256).
    """

    def __init__(self, *, classes: int, width: int = 16, depth: int = 16):
        super().__init__()
        self.depth = depth
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.encoder = nn.ModuleList(
            _double_convolution(n_in, n_out)
            for n_in, n_out in zip([classes, *widths], widths, strict=False)
        )
        self.decoder = nn.ModuleList(
            _double_convolution(2 * n_out + n_out * (level > 0), n_out)
            for level, n_out in reversed(list(enumerate(widths[:-1])))
        )
        self.head = nn.Conv3d(width, classes, 1)
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def forward(
        self, masks: Float[Tensor, "volume class depth height width"]
    ) -> Float[Tensor, "volume class depth height width"]:
        """Logits of the masks without their corruption."""
        features, skipped = masks.contiguous(memory_format=torch.channels_last_3d), []
        for level, encode in enumerate(self.encoder):
            features = _in_32_bits_if_thin(
                encode, functional.max_pool3d(features, 2) if level else features
            )
            skipped.append(features)
        skipped.pop()
        for decode in self.decoder:
            skip = skipped.pop()
            features = functional.interpolate(features, size=skip.shape[2:], mode="trilinear")
            features = _in_32_bits_if_thin(
                decode, torch.cat([features, skip], 1) if skipped else features
            )
        return self.head(features)

    def mended(self, masks: Masks) -> Masks:
        """Probabilities of the slices of one volume after denoising."""
        volume = _resampled(masks.movedim(0, 1), self.depth)
        mended = self(volume[None])[0].float().softmax(0)
        return _resampled(mended, len(masks)).movedim(0, 1)


def read_denoiser(run: Path) -> Denoiser:
    """The trained denoiser of a run, frozen.

    Raises:
        RunError: There is none, or the file is damaged.
    """
    return read_network(
        run / DENOISER,
        Denoiser,
        name="denoiser",
        trainer="maskmend.rivals.denoiser_training.train_denoiser",
    )


def _resampled(
    volume: Float[Tensor, "class depth height width"], depth: int
) -> Float[Tensor, "class other height width"]:
    size = (depth, *volume.shape[2:])
    return functional.interpolate(volume[None], size=size, mode="trilinear")[0]


def _in_32_bits_if_thin(block: nn.Module, features: Tensor) -> Tensor:
    """OneDNN's gradients in bfloat16 are wrong where there are fewer slices than weights."""
    thin = features.shape[2] < 3
    with torch.autocast(features.device.type, enabled=False) if thin else nullcontext():
        return block(features.float() if thin else features)


def _double_convolution(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(n_in, n_out, 3, padding=1),
        nn.BatchNorm3d(n_out),
        nn.ReLU(inplace=True),
        nn.Conv3d(n_out, n_out, 3, padding=1),
        nn.BatchNorm3d(n_out),
        nn.ReLU(inplace=True),
    )
