"""An adaptor of few degrees of freedom: it can do to an image what scanners do, and little else.

The convolutional adaptor of the paper can draw what the prior wants to see. This one cannot, which
is why it may take large steps (docs/guard.md).

Axes: slice, channel or class, height, width; the slices of one volume.
"""

import copy
import dataclasses
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskmend.ways import Images, Masks, Way

_KNOTS = torch.linspace(-1.5, 3.0, 6)
"""Intensities, in interquartile ranges from the median, at which the tone curve is bent."""
_LEARNING_RATE = 1e-2
_PLATEAU = 5
"""Steps in which an automatic run wants the loss to fall by a hundredth."""


class Retouch(nn.Module):
    """Tone curve, shading and sharpness: 24 weights, the identity at the start."""

    knots: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.tone = nn.Parameter(torch.zeros(len(_KNOTS)))
        self.shading = nn.Parameter(torch.zeros(1, 1, 4, 4))
        self.softness = nn.Parameter(torch.zeros(2))
        self.register_buffer("knots", _KNOTS.clone(), persistent=False)

    def forward(self, images: Images) -> Images:
        """The retouched images, all slices in the same way."""
        bumps = torch.exp(-(images[..., None] - self.knots).square() / 0.8)
        toned = images + (bumps * self.tone).sum(-1)
        field = functional.interpolate(self.shading, images.shape[-2:], mode="bicubic")
        # Shading multiplies what a coil receives, and the darkest pixels are where that is nothing.
        lit = toned + field * (images - images.min())
        blurred, wide = _mean3(lit), _mean3(_mean3(lit))
        return lit + self.softness[0] * (blurred - lit) + self.softness[1] * (wide - blurred)


@dataclass(frozen=True)
class Retouched:
    """A way with a tuned retouch: of all steps the one with the lowest loss."""

    way: Way
    adaptor: nn.Module
    steps: int
    """Updates behind it."""
    losses: tuple[float, ...]
    """Before each step and after the last: one less the mean soft Dice over structures."""


def retouch(
    way: Way,
    images: Images,
    target: Masks,
    *,
    steps: int | None = None,
    carried: nn.Module | None = None,
) -> Retouched:
    """Tune a retouch of what a way shows to its segmentor, until the mask is the target.

    Args:
        way: Where to start.
        images: All slices of a volume.
        target: Probabilities.
        steps: Updates (Adam); by default until the loss no longer falls, at most 50.
        carried: The retouch of another volume, to start from where that is nearer to the target.
    """
    shown = way.correction(images)

    def loss_of(adaptor: nn.Module) -> Float[Tensor, ""]:
        return 1 - _soft_dice(way.segmentor(adaptor(shown)).float().softmax(1), target)

    adaptor: nn.Module = Retouch().to(images.device)
    if carried is not None:
        with torch.no_grad():
            adaptor = copy.deepcopy(min(adaptor, carried, key=loss_of))
    adaptor.requires_grad_(True)
    optimizer = torch.optim.Adam(adaptor.parameters(), _LEARNING_RATE)
    losses: list[float] = []
    kept, kept_step = adaptor, 0
    while True:
        loss = loss_of(adaptor)
        losses.append(loss.item())
        if losses[-1] == min(losses):
            kept, kept_step = copy.deepcopy(adaptor), len(losses) - 1
        if len(losses) > (50 if steps is None else steps) or (steps is None and _settled(losses)):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    kept.requires_grad_(False)
    tuned = dataclasses.replace(
        way,
        name=f"{way.name}, retouched",
        correction=lambda images: kept(way.correction(images)),
    )
    return Retouched(tuned, kept, kept_step, tuple(losses))


def _settled(losses: list[float]) -> bool:
    earlier = min(losses[:-_PLATEAU], default=math.inf)
    return min(losses) >= 0.99 * earlier


def _soft_dice(masks: Masks, target: Masks) -> Float[Tensor, ""]:
    """Of the volume, the mean over structures; 1 for equal masks (Milletari et al. 2016)."""
    both = (masks * target).sum((0, 2, 3))
    size = (masks.square() + target.square()).sum((0, 2, 3))
    return ((2 * both + 1) / (size + 1))[1:].mean()


def _mean3(images: Images) -> Images:
    """Mean of 3 x 3 pixels; at an edge of those that there are."""
    return functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
