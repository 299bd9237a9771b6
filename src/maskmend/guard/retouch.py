"""An adaptor of few degrees of freedom: it can do to an image what scanners do, and little else.

The convolutional adaptor of the paper can draw what the prior wants to see. This one cannot, which
is why it may take large steps (docs/guard.md). It is tuned, as in section 3.3, until the
discriminator finds the mask as realistic as true ones, and stays near a mask that is likely right.

Axes: slice, channel or class, height, width; the slices of one volume.
"""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from maskmend.guard.ways import Images, Masks, Way

_KNOTS = torch.linspace(-1.5, 3.0, 6)
"""Intensities, in interquartile ranges from the median, at which the tone curve is bent."""
_LEARNING_RATE = 2e-2
STEPS = 4
_REALISM = 0.3
"""Weight of the adversarial loss beside that of the distance to the target."""


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
    """Before each step and after the last."""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What a retouch is tuned to."""

    masks: Masks
    """Probabilities to stay near to."""
    score: Callable[[Masks, Images], Float[Tensor, " slice"]]
    """The discriminator's, of masks and the images that they are of."""
    realistic: float
    """Score that true masks have: what is above is left alone."""

    def loss(self, masks: Masks, images: Images) -> Float[Tensor, ""]:
        """One less the soft Dice with the masks, and equation 2's second line, from below."""
        missing = (self.realistic - self.score(masks, images)).clamp(min=0)
        return 1 - _soft_dice(masks, self.masks) + _REALISM * missing.square().mean()


def retouch(
    way: Way,
    images: Images,
    aim: Aim,
    *,
    steps: int = STEPS,
    carried: nn.Module | None = None,
) -> Retouched:
    """Tune a retouch of what a way shows to its segmentor.

    Args:
        way: Where to start.
        images: All slices of a volume.
        aim: The loss.
        steps: Updates (Adam).
        carried: The retouch of another volume, to start from where that has the lower loss.
    """
    shown = way.shown(images)
    straight = dataclasses.replace(way, correction=lambda images: images)

    def loss_of(adaptor: nn.Module) -> Float[Tensor, ""]:
        return aim.loss(straight.segment(adaptor(shown)), images)

    adaptor: nn.Module = Retouch().to(images.device)
    if carried is not None:
        with torch.no_grad():
            adaptor = copy.deepcopy(min(adaptor, carried, key=loss_of))
    adaptor.requires_grad_(True)
    optimizer = torch.optim.Adam(adaptor.parameters(), _LEARNING_RATE)
    losses: list[float] = []
    kept, kept_step = adaptor, 0
    for step in range(steps + 1):
        loss = loss_of(adaptor)
        losses.append(loss.item())
        if not step or losses[-1] < min(losses[:-1]):
            kept, kept_step = copy.deepcopy(adaptor), step
        if step < steps:
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


def _soft_dice(masks: Masks, target: Masks) -> Float[Tensor, ""]:
    """Of the volume, the mean over structures; 1 for equal masks (Milletari et al. 2016)."""
    both = (masks * target).sum((0, 2, 3))
    size = (masks.square() + target.square()).sum((0, 2, 3))
    return ((2 * both + 1) / (size + 1))[1:].mean()


def _mean3(images: Images) -> Images:
    """Mean of 3 x 3 pixels; at an edge of those that there are."""
    return functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
